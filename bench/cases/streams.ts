import type { Engine } from "../../src/engine/engine.ts";
import { best, milliseconds } from "../statistics.ts";
import type { Case } from "./case.ts";

const STREAMS = 4;
/** Tokens of a long prompt that arrives in the middle. */
const LONG_PROMPT = 2000;
const CHUNK = 128;

interface Stream {
  /** When each token came, in milliseconds. */
  at: number[];
}

/** Streams beside each other: what they give together, how fair that is, and what a long prompt does to them. */
export const streams: Case = async ({ engine, quick, progress }) => {
  const tokens = quick ? 12 : 120;
  progress(`${STREAMS} streams`);
  await run(engine, STREAMS, 8);
  const together = await run(engine, STREAMS, tokens);
  const begins = Math.max(...together.map(({ at }) => at[0]!));
  const ends = Math.min(...together.map(({ at }) => at.at(-1)!));
  const during = together.map(({ at }) => at.filter((time) => time > begins && time <= ends).length);
  const perSecond = 1000 * during.reduce((sum, count) => sum + count) / (ends - begins);
  const slowest = Math.min(...during) * STREAMS / during.reduce((sum, count) => sum + count);

  progress("passes of as many rows alone");
  const rowsPerSecond = await passesAlone(engine, tokens);

  progress("a long prompt arrives");
  const others = run(engine, STREAMS, tokens);
  await new Promise((resolve) => setTimeout(resolve, quick ? 100 : 500));
  const ids = Array.from({ length: quick ? 300 : LONG_PROMPT }, (_, i) => 100 + (i * 7919) % 40_000);
  const longStartedAt = performance.now();
  let longEndedAt = 0;
  for await (const event of engine.generate({ prompt: { ids }, maxTokens: 1, cache: "off" })) {
    if (event.type === "token") longEndedAt = performance.now();
  }
  const gaps = (await others).flatMap(({ at }) => at.slice(1).map((time, i) => ({ from: at[i]!, ms: time - at[i]! })))
    .filter(({ from }) => from >= longStartedAt && from < longEndedAt);
  const longestGap = Math.max(0, ...gaps.map(({ ms }) => ms));
  const chunkMs = await chunkAlone(engine, quick ? 300 : LONG_PROMPT);

  return {
    name: "streams",
    question: `What do ${STREAMS} streams beside each other give, and what does a long prompt do to them?`,
    checked: `all streams gave ${tokens} tokens; test/engine compares streams with runs alone`,
    rows: [{
      streams: STREAMS,
      "tokens/s": perSecond,
      "tokens/s of passes alone": rowsPerSecond,
      "of passes": perSecond / rowsPerSecond,
      "slowest, of a fair share": slowest,
      "longest gap during the prompt ms": longestGap,
      "its dearest chunk beside the streams ms": chunkMs,
      "gap / chunk": longestGap / chunkMs,
    }],
    figures: {
      tokensPerSecond: perSecond,
      ofPasses: perSecond / rowsPerSecond,
      slowest,
      longestGapMs: longestGap,
      chunkMs,
      gapOverChunk: longestGap / chunkMs,
    },
    plot: {
      title: `Tokens of ${STREAMS} streams over time`,
      x: "ms",
      y: "tokens",
      points: together.flatMap(({ at }, stream) =>
        at.filter((_, i) => i % 4 === 0).map((x, i) => ({ x: x - begins, y: 4 * i, series: `stream ${stream + 1}` }))
      ),
    },
  };
};

async function run(engine: Engine, count: number, tokens: number): Promise<Stream[]> {
  return await Promise.all(Array.from({ length: count }, async (_, i): Promise<Stream> => {
    const at: number[] = [];
    const prompt = { messages: [{ role: "user", content: `Tell me a story about the number ${i + 1}.` }] };
    for await (const event of engine.generate({ prompt, maxTokens: tokens, ignoreEos: true, cache: "off" })) {
      if (event.type === "token") at.push(performance.now());
    }
    if (at.length !== tokens) throw new Error(`Cannot time streams: one gave ${at.length} tokens, wanted ${tokens}`);
    return { at };
  }));
}

/** Tokens a second of passes of as many rows, each on as long a context as the streams have halfway. */
async function passesAlone({ backend }: Engine, tokens: number): Promise<number> {
  using stack = new DisposableStack();
  const context = Array.from({ length: 40 + tokens / 2 }, (_, i) => 100 + i);
  const caches = Array.from({ length: STREAMS }, () => stack.use(backend.createKvCache()));
  for (const cache of caches) await backend.forward([{ cache, tokenIds: context, logits: "none" }]);
  const ms = await best(20, () =>
    milliseconds(async () => {
      await backend.forward(caches.map((cache) => ({ cache, tokenIds: [100] })));
      for (const cache of caches) cache.truncate(context.length);
    }));
  return 1000 * STREAMS / ms;
}

/** The last chunk of a prompt of `length` tokens, the dearest, with the streams' rows in the same pass. */
async function chunkAlone({ backend }: Engine, length: number): Promise<number> {
  using stack = new DisposableStack();
  const ids = (count: number) => Array.from({ length: count }, (_, i) => 100 + (i * 7919) % 40_000);
  const long = stack.use(backend.createKvCache());
  while (long.length + CHUNK < length) await backend.forward([{ cache: long, tokenIds: ids(CHUNK), logits: "none" }]);
  const caches = Array.from({ length: STREAMS }, () => stack.use(backend.createKvCache()));
  for (const cache of caches) await backend.forward([{ cache, tokenIds: ids(80), logits: "none" }]);
  const start = long.length;
  return await best(4, () =>
    milliseconds(async () => {
      const chunk = { cache: long, tokenIds: ids(CHUNK), logits: "last" } as const;
      await backend.forward([chunk, ...caches.map((cache) => ({ cache, tokenIds: [100] }))]);
      long.truncate(start);
      for (const cache of caches) cache.truncate(80);
    }));
}
