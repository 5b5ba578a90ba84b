import { contextIds, tokenMs } from "../context.ts";
import { best, milliseconds } from "../statistics.ts";
import type { Case } from "./case.ts";

/** Decode and the cost of filling, as the context grows as far as the model goes. */
export const contextCurve: Case = async ({ engine: { backend, model }, quick, progress }) => {
  const { contextLength, vocabSize } = model.config;
  const contexts = (quick ? [64, 128] : [128, 1024, 2048, 4096]).map((tokens) => Math.min(tokens, contextLength) - 1);
  using cache = backend.createKvCache();
  const results: { tokens: number; ms: number; prefill: number }[] = [];
  for (const tokens of contexts) {
    progress(`decode at ${tokens + 1} tokens`);
    let prefill = 0;
    for (let from = cache.length; from < tokens; from = cache.length) {
      const tokenIds = contextIds(from, Math.min(128, tokens - from), vocabSize);
      const ms = await milliseconds(() => backend.forward([{ cache, tokenIds, logits: "none" }]));
      prefill = 1000 * tokenIds.length / ms;
    }
    results.push({
      tokens: tokens + 1,
      ms: await best(quick ? 2 : 12, () => tokenMs(backend, cache, vocabSize)),
      prefill,
    });
  }
  const [first, last] = [results[0]!, results.at(-1)!];
  return {
    name: "context_curve",
    question: "How long does a token take as the context grows?",
    checked: "all logits are finite; test/backend/simd holds passes of any length to equal bits",
    rows: results.map(({ tokens, ms, prefill }) => ({
      "tokens of context": tokens,
      "decode ms/token": ms,
      [`over ${first.tokens}`]: ms / first.ms,
      "prefill tokens/s, last 128": prefill,
    })),
    figures: { longest: last.tokens, ratio: last.ms / first.ms },
    plot: {
      title: "Time a token by context",
      x: "tokens of context",
      y: "ms a token",
      points: results.map(({ tokens, ms }) => ({ x: tokens, y: ms, series: `${backend.info.name}, ${model.id}` })),
    },
  };
};
