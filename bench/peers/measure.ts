import type { PeerReply, PeerRequest, PeerTask } from "./peer.ts";
import { PeerProcess, type PeerScript } from "./peer_process.ts";

/** How long each peer decodes in a round at least, in milliseconds. */
const DECODE_MS = 2000;

/** How long the tokens take together that a peer's speed is read off, in milliseconds, and how many they are at least. */
const [WINDOW_MS, WINDOW_TOKENS] = [200, 8];

/** The two requests of a round. */
export interface Round {
  decode: PeerRequest;
  prefill: PeerRequest;
}

/** What one peer took on one number of threads: the best of all rounds. */
export interface Measured {
  peer: string;
  threads: number;
  version: string;
  runsIn: string;
  loadMs: number;
  residentMiB: number;
  ttftMs: number;
  msPerToken: number;
  prefillTokensPerS: number;
  /** What it said in the check round. */
  output: PeerReply["output"];
}

/** Options of {@linkcode measurePeers}. */
export interface MeasureOptions {
  rounds: number;
  progress: (text: string) => void;
  /** Called for a peer that cannot run here. */
  onSkip: (peer: string, reason: string) => void;
}

/**
 * Runs a round of every peer, then the next, so that a busy neighbour hits all alike; the others wait meanwhile.
 * The first round only checks and warms up.
 * @throws {Error} when a peer evaluated or gave another number of tokens than asked
 */
export async function measurePeers(
  scripts: Readonly<Record<string, PeerScript>>,
  task: PeerTask,
  round: Round,
  { rounds, progress, onSkip }: MeasureOptions,
): Promise<Measured[]> {
  await using stack = new AsyncDisposableStack();
  const peers: { process: PeerProcess; measured: Measured }[] = [];
  for (const [peer, script] of Object.entries(scripts)) {
    progress(`loading ${peer}`);
    const [process, start] = await PeerProcess.start(peer, script, task);
    stack.use(process);
    if ("skipped" in start) {
      onSkip(peer, start.skipped);
      continue;
    }
    progress(`checking ${peer}`);
    const { output } = await check(process, round.decode);
    const { residentMiB } = await check(process, round.prefill);
    const worst = { ttftMs: Infinity, msPerToken: Infinity, prefillTokensPerS: 0 };
    peers.push({ process, measured: { peer, threads: task.threads, ...start, ...worst, output, residentMiB } });
  }
  for (let n = 1; n <= rounds; n++) {
    for (const { process, measured } of peers) {
      progress(`round ${n} of ${rounds}, ${task.threads} threads: ${process.name}`);
      // What is short is asked again, so that neighbours spare all peers equally often.
      for (let spentMs = 0; spentMs < DECODE_MS;) {
        const { tokenMs } = await check(process, round.decode);
        measured.ttftMs = Math.min(measured.ttftMs, tokenMs[0]!);
        measured.msPerToken = Math.min(measured.msPerToken, bestMsPerToken(tokenMs));
        spentMs += tokenMs.at(-1)!;
      }
      const prefill = await check(process, round.prefill);
      const prefillTokensPerS = prefill.promptTokens / prefill.tokenMs[0]! * 1000;
      measured.prefillTokensPerS = Math.max(measured.prefillTokensPerS, prefillTokensPerS);
      measured.residentMiB = Math.max(measured.residentMiB, prefill.residentMiB);
    }
  }
  return peers.map(({ measured }) => measured);
}

/**
 * Of the fastest tokens in a row, one's time: of as many as take 200 ms, and of 8 at least. Of all where these take less.
 * Some peers hand tokens over in clusters, ours too: what counts is from the end of one cluster to the end of another,
 * or those beside the first token would be had for nothing.
 */
export function bestMsPerToken(tokenMs: readonly number[]): number {
  const all = (tokenMs.at(-1)! - tokenMs[0]!) / (tokenMs.length - 1);
  // By the window's own speed: tokens before or after a slow stretch are no cluster.
  const endsCluster = (i: number, ms: number) => !(tokenMs[i + 1]! - tokenMs[i]! < ms / 2);
  let best = Infinity;
  for (let first = 0; first < tokenMs.length; first++) {
    for (let last = first + WINDOW_TOKENS; last < tokenMs.length; last++) {
      const windowMs = tokenMs[last]! - tokenMs[first]!;
      const ms = windowMs / (last - first);
      if (windowMs < WINDOW_MS || !endsCluster(first, ms) || !endsCluster(last, ms)) continue;
      best = Math.min(best, ms);
      break;
    }
  }
  return best === Infinity ? all : best;
}

/** Asks, and holds the peer to the work that was asked for. */
async function check(peer: PeerProcess, request: PeerRequest): Promise<PeerReply> {
  const reply = await peer.ask(request);
  const [got, wanted] = [[reply.promptTokens, reply.tokenMs.length], [request.prompt.ids.length, request.maxTokens]];
  if (got[0] === wanted[0] && got[1] === wanted[1]) return reply;
  throw new Error(
    `Cannot compare ${peer.name}: ${got.join(" and ")} tokens of prompt and answer, wanted ${wanted.join(" and ")}`,
  );
}
