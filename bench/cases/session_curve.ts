import type { Backend } from "../../src/backend/backend.ts";
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";
import { best, mean, milliseconds } from "../statistics.ts";
import { answer, type Case } from "./case.ts";

/** Where the time of a pass of `tokens` new tokens on `length` cached ones goes, in milliseconds. */
interface Split {
  /** The pass less the same pass on an empty cache: attention to what is cached. */
  attention: number;
  /** The first pass that needs more room less the same pass when the room is there: moving KV to a larger buffer. */
  kvCopy: number;
}

/** Measures {@linkcode Split} on the backend, with tokens of no meaning. */
async function split(backend: Backend, length: number, tokens: number): Promise<Split> {
  const ids = (count: number, seed: number) =>
    Array.from({ length: count }, (_, i) => 100 + (i * 7919 + seed) % 40_000);
  const row = ids(tokens, 1);
  const pass = async (kvLength: number) => {
    using cache = backend.createKvCache();
    for (let at = 0; at < kvLength; at += 128) {
      await backend.forward([{ cache, tokenIds: ids(Math.min(128, kvLength - at), at), logits: "none" }]);
    }
    const run = async () => {
      cache.truncate(kvLength);
      return await milliseconds(() => backend.forward([{ cache, tokenIds: row }]));
    };
    const grows = backend.kvBytes(kvLength + tokens) > backend.kvBytes(kvLength);
    const first = await run();
    const again = await best(4, run);
    return { again, growth: grows ? Math.max(0, first - again) : 0 };
  };
  const empty = await pass(0);
  const full = await pass(length);
  return { attention: Math.max(0, full.again - empty.again), kvCopy: full.growth };
}

/** Turns that are compared: ten near the beginning, the last ten. */
const WINDOW = 10;

/** A long conversation: TTFT of every turn, and what it is made of at every tenth. */
export const sessionCurve: Case = async ({ engine, quick, progress }) => {
  const turns = quick ? 24 : 150;
  const [early, late] = [2, turns + 1 - WINDOW];
  const middles = [early, late].map((first) => first + WINDOW / 2);
  const session = { id: crypto.randomUUID() };
  const messages: ChatMessage[] = [];
  const rows: { turn: number; "attention ms": number; [column: string]: number }[] = [];
  const points = [];
  const ttft: number[] = [];
  for (let turn = 1; turn <= turns; turn++) {
    progress(`turn ${turn} of ${turns}`);
    messages.push({ role: "user", content: `Tell me one thing about the number ${turn}.` });
    const request = { prompt: { messages: [...messages] }, maxTokens: 8, ignoreEos: true, session };
    const { text, usage, timings } = await answer(engine, request);
    const evaluated = usage.promptTokens - usage.cachedTokens;
    if (turn > 1 && evaluated > 40) throw new Error(`Cannot time turn ${turn}: ${evaluated} tokens were not cached`);
    messages.push({ role: "assistant", content: text });
    ttft.push(timings.ttftMs);
    points.push({ x: turn, y: timings.ttftMs, series: "TTFT" });
    if (!middles.includes(turn) && turn % (quick ? 12 : 10) !== 0) continue;
    const { attention, kvCopy } = await split(engine.backend, usage.cachedTokens, evaluated);
    rows.push({
      turn,
      "cached tokens": usage.cachedTokens,
      "new tokens": evaluated,
      "TTFT ms": timings.ttftMs,
      "attention ms": attention,
      "KV copy ms": kvCopy,
      "rest ms": timings.ttftMs - attention - kvCopy,
    });
    points.push({ x: turn, y: attention, series: "attention to the history" });
    points.push({ x: turn, y: kvCopy, series: "KV copy" });
  }
  await engine.sessions.delete(session.id);
  /** TTFT of a window's turns, less what attention to the history took in its middle. */
  const withoutAttention = (first: number) => {
    const { "attention ms": attention } = rows.find(({ turn }) => turn === first + WINDOW / 2)!;
    return mean(ttft.slice(first - 1, first - 1 + WINDOW)) - attention;
  };
  return {
    name: "session_curve",
    question: `How does the time to first token grow over ${turns} turns of one session?`,
    checked: "each turn evaluated its new tokens only",
    rows,
    figures: {
      turns,
      earlyTtftMs: mean(ttft.slice(early - 1, early - 1 + WINDOW)),
      lateTtftMs: mean(ttft.slice(late - 1)),
      earlyWithoutAttentionMs: withoutAttention(early),
      lateWithoutAttentionMs: withoutAttention(late),
      ratioWithoutAttention: withoutAttention(late) / withoutAttention(early),
    },
    plot: { title: `Time to first token over ${turns} turns`, x: "turn", y: "ms", points },
  };
};
