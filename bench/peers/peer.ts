/** What each peer's process gets and gives: it loads once, then answers one request a line until stdin ends. */
import { createInterface } from "node:readline";

/** What all peers load, read from the environment variable `PEER_TASK`. */
export interface PeerTask {
  threads: number;
  modelFolder: string;
  /** The same weights as GGUF, or why there are none. */
  gguf: { path: string } | { missing: string };
}

/** One prompt in both forms; `text` encodes to `ids`, control tokens in it are tokens. */
export interface PeerPrompt {
  ids: readonly number[];
  text: string;
}

/** A line of stdin: continue `prompt` greedily by exactly `maxTokens`, from an empty cache. */
export interface PeerRequest {
  prompt: PeerPrompt;
  maxTokens: number;
}

/** What came, and when. */
export interface PeerAnswer {
  /** Ids where the peer gives them, text where it does not. */
  output: { ids: number[] } | { text: string };
  promptTokens: number;
  /** When each token came, in milliseconds from the request. */
  tokenMs: number[];
}

/** A line of stdout for each line of stdin. */
export interface PeerReply extends PeerAnswer {
  residentMiB: number;
}

/** The first line of stdout. */
export type PeerStart = { version: string; runsIn: string; loadMs: number } | { skipped: string };

/** A loaded model. */
export interface Peer {
  version: string;
  /** @default the runtime of this process */
  runsIn?: string;
  generate(request: PeerRequest): Promise<PeerAnswer>;
  /** @default the memory of this process */
  residentMiB?(): number;
  close?(): Promise<void>;
}

/** Thrown by a peer that cannot run here: the page says so and goes on. */
export class PeerMissingError extends Error {
  override name = "PeerMissingError";
}

/** Loads a peer, serves it until the page closes stdin, and ends the process. */
export async function servePeer(load: (task: PeerTask) => Promise<Peer>): Promise<never> {
  const print = (line: PeerStart | PeerReply) => console.log(JSON.stringify(line));
  const startedAt = performance.now();
  let peer: Peer;
  try {
    peer = await load(JSON.parse(process.env.PEER_TASK!));
  } catch (error) {
    if (!(error instanceof PeerMissingError)) throw error;
    print({ skipped: error.message });
    process.exit(0);
  }
  const runsIn = peer.runsIn ?? runtimeName();
  print({ version: peer.version, runsIn, loadMs: performance.now() - startedAt });
  for await (const line of createInterface({ input: process.stdin })) {
    const answer = await peer.generate(JSON.parse(line));
    print({ ...answer, residentMiB: peer.residentMiB?.() ?? Math.round(process.memoryUsage().rss / 2 ** 20) });
  }
  await peer.close?.();
  process.exit(0);
}

/** The GGUF's path. */
export function requireGguf({ gguf }: PeerTask): string {
  if ("missing" in gguf) throw new PeerMissingError(gguf.missing);
  return gguf.path;
}

/** Takes tokens from `next` until there are `maxTokens`, and the times. */
export async function timeTokens(
  { prompt, maxTokens }: PeerRequest,
  next: () => Promise<number>,
): Promise<PeerAnswer> {
  const ids: number[] = [];
  const tokenMs: number[] = [];
  const startedAt = performance.now();
  while (ids.length < maxTokens) {
    ids.push(await next());
    tokenMs.push(performance.now() - startedAt);
  }
  return { output: { ids }, promptTokens: prompt.ids.length, tokenMs };
}

function runtimeName(): string {
  const { bun, deno, node } = process.versions;
  return bun ? `Bun ${bun}` : deno ? `Deno ${deno}` : `Node ${node}`;
}
