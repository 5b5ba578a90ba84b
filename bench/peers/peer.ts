/** What each peer's process gets and gives. */

/** Read from the environment variable `PEER_TASK`. */
export interface PeerTask {
  /** Rendered by the model's chat template; control tokens in it are tokens. */
  prompt: string;
  maxTokens: number;
  threads: number;
  /** How often to answer; the best counts. */
  rounds: number;
  modelFolder: string;
  /** The model's source as GGUF, for llama.cpp. */
  gguf: string | undefined;
}

/** Printed as the last line of stdout. */
export interface PeerAnswer {
  version: string;
  loadMs: number;
  text: string;
  tokens: number;
  ttftMs: number;
  msPerToken: number;
  residentMiB: number;
}

/** One answer, timed: `tokenTimes[i]` is when token i was there. */
export interface TimedAnswer {
  text: string;
  startedAt: number;
  tokenTimes: number[];
}

export const task: PeerTask = JSON.parse(process.env.PEER_TASK!);

/** Answers as often as the task says, prints the best times, and ends the process. */
export async function answerTask(version: string, loadMs: number, once: () => Promise<TimedAnswer>): Promise<never> {
  let ttftMs = Infinity;
  let msPerToken = Infinity;
  let last: TimedAnswer | undefined;
  for (let round = 0; round < task.rounds; round++) {
    last = await once();
    const { startedAt, tokenTimes } = last;
    ttftMs = Math.min(ttftMs, tokenTimes[0]! - startedAt);
    msPerToken = Math.min(msPerToken, (tokenTimes.at(-1)! - tokenTimes[0]!) / (tokenTimes.length - 1));
  }
  const answer: PeerAnswer = {
    version,
    loadMs,
    text: last!.text,
    tokens: last!.tokenTimes.length,
    ttftMs,
    msPerToken,
    residentMiB: Math.round(process.memoryUsage().rss / 2 ** 20),
  };
  console.log(JSON.stringify(answer));
  process.exit(0);
}
