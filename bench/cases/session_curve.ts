import type { Backend } from "../../src/backend/backend.ts";
import type { KvCache } from "../../src/kv/kv_cache.ts";
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";
import { milliseconds, percentile } from "../statistics.ts";
import { answer, type Case } from "./case.ts";

/** Where the time of a pass of `tokens` new tokens on `length` cached ones goes, in milliseconds. */
interface Split {
  /** The pass less the same pass on an empty cache: attention to what is cached. */
  attention: number;
  /** The first pass that needs more room less the same pass when the room is there: moving KV to a larger buffer. */
  kvCopy: number;
}

/** Measures {@linkcode Split} on the backend, with tokens of no meaning. Ask for ever longer caches. */
class PassTimer {
  readonly #backend: Backend;
  readonly #cache: KvCache;

  constructor(backend: Backend) {
    this.#backend = backend;
    this.#cache = backend.createKvCache();
  }

  async split(length: number, tokens: number): Promise<Split> {
    using empty = this.#backend.createKvCache();
    const onEmpty = await this.#median(empty, 0, tokens);
    for (let at = this.#cache.length; at < length; at = this.#cache.length) {
      const tokenIds = words(Math.min(128, length - at), at);
      await this.#backend.forward([{ cache: this.#cache, tokenIds, logits: "none" }]);
    }
    const grows = this.#backend.kvBytes(length + tokens) > this.#backend.kvBytes(length);
    const first = await this.#pass(this.#cache, length, tokens);
    const again = await this.#median(this.#cache, length, tokens);
    return { attention: Math.max(0, again - onEmpty), kvCopy: grows ? Math.max(0, first - again) : 0 };
  }

  async #median(cache: KvCache, length: number, tokens: number): Promise<number> {
    const ms: number[] = [];
    while (ms.length < 5) ms.push(await this.#pass(cache, length, tokens));
    return percentile(ms, 50);
  }

  /** Leaves the cache as long as it was. */
  async #pass(cache: KvCache, length: number, tokens: number): Promise<number> {
    const ms = await milliseconds(() => this.#backend.forward([{ cache, tokenIds: words(tokens, 1) }]));
    cache.truncate(length);
    return ms;
  }

  [Symbol.dispose](): void {
    this.#cache[Symbol.dispose]();
  }
}

function words(count: number, seed: number): number[] {
  return Array.from({ length: count }, (_, i) => 100 + (i * 7919 + seed) % 40_000);
}

/** Turns that are compared: ten near the beginning, the last ten. */
const WINDOW = 10;

/** A long conversation: TTFT of every turn, and what it is made of at every tenth. */
export const sessionCurve: Case = async ({ engine, quick, progress }) => {
  const turns = quick ? 24 : 150;
  const windows = [2, turns + 1 - WINDOW].map((first) => Array.from({ length: WINDOW }, (_, i) => first + i));
  const session = { id: crypto.randomUUID() };
  const messages: ChatMessage[] = [];
  const rows: Record<string, number>[] = [];
  const points = [];
  using timer = new PassTimer(engine.backend);
  for (let turn = 1; turn <= turns; turn++) {
    progress(`turn ${turn} of ${turns}`);
    messages.push({ role: "user", content: `Tell me one thing about the number ${turn}.` });
    const request = { prompt: { messages: [...messages] }, maxTokens: 8, ignoreEos: true, session };
    const { text, usage, timings: { ttftMs } } = await answer(engine, request);
    const evaluated = usage.promptTokens - usage.cachedTokens;
    if (turn > 1 && evaluated > 40) throw new Error(`Cannot time turn ${turn}: ${evaluated} tokens were not cached`);
    messages.push({ role: "assistant", content: text });
    points.push({ x: turn, y: ttftMs, series: "TTFT" });
    if (turn % (quick ? 12 : 10) !== 0 && !windows.flat().includes(turn)) continue;
    // At once: the machine's speed drifts by more than what is looked for.
    const { attention, kvCopy } = await timer.split(usage.cachedTokens, evaluated);
    rows.push({
      turn,
      "cached tokens": usage.cachedTokens,
      "new tokens": evaluated,
      "TTFT ms": ttftMs,
      "attention ms": attention,
      "KV copy ms": kvCopy,
      "rest ms": ttftMs - attention - kvCopy,
    });
    points.push({ x: turn, y: attention, series: "attention to the history" });
  }
  await engine.sessions.delete(session.id);
  const [early, late] = windows.map((window) => {
    const of = (column: string) =>
      percentile(rows.filter(({ turn }) => window.includes(turn!)).map((row) => row[column]!), 50);
    return { ttft: of("TTFT ms"), attention: of("attention ms"), rest: of("rest ms") };
  });
  return {
    name: "session_curve",
    question: `How does the time to first token grow over ${turns} turns of one session?`,
    checked: "each turn evaluated its new tokens only; figures are medians of ten turns",
    rows,
    figures: {
      turns,
      earlyTtftMs: early!.ttft,
      lateTtftMs: late!.ttft,
      earlyAttentionMs: early!.attention,
      lateAttentionMs: late!.attention,
      earlyWithoutAttentionMs: early!.rest,
      lateWithoutAttentionMs: late!.rest,
      ratioWithoutAttention: late!.rest / early!.rest,
    },
    plot: { title: `Time to first token over ${turns} turns`, x: "turn", y: "ms", points },
  };
};
