import type { Backend } from "../../src/backend/backend.ts";
import { Sampler } from "../../src/sampling/sampler.ts";
import { GREEDY, resolveSamplingParams } from "../../src/sampling/sampling_params.ts";
import { best, milliseconds } from "../statistics.ts";
import { bestId, promptIds } from "./reference.ts";

/** What is measured of one configuration; times in milliseconds. */
export interface Speeds {
  prefill: { tokens: number; chunk: number; firstMs: number; bestMs: number; tokensPerS: number }[];
  decode: { context: number; ahead: number; ms: number; tokensPerS: number; sameIds: boolean }[];
  /** Decode that draws tokens. */
  drawn: { context: number; sampling: string; ahead: number; ms: number; tokensPerS: number }[];
}

/** Ways to draw: from the best, from all of the vocabulary, and from as much of it as top-p keeps. */
const SAMPLINGS = {
  "top_k 50, top_p 0.9": { topK: 50, topP: 0.9 },
  "temperature 0.7": { temperature: 0.7 },
  "temperature 0.7, top_p 0.95": { temperature: 0.7, topP: 0.95 },
};

/** Options of {@linkcode measure}. */
export interface MeasureOptions {
  vocabSize: number;
  /** Prompts, and tokens of a pass. */
  prefills: readonly { tokens: number; chunk: number }[];
  /** Tokens before those that are timed. */
  contexts: readonly number[];
  /** How far decode may be begun ahead, each on its own; the first says which ids are right. */
  aheads: readonly number[];
  /** Tokens that are timed. */
  decodeTokens: number;
  repeats: number;
}

/** Prefill from an empty cache, then decode token by token as the engine asks for it, greedy and drawn. */
export async function measure(backend: Backend, options: MeasureOptions): Promise<Speeds> {
  const { vocabSize, prefills, contexts, aheads, decodeTokens, repeats } = options;
  const speeds: Speeds = { prefill: [], decode: [], drawn: [] };
  for (const { tokens, chunk } of prefills) {
    const run = () =>
      milliseconds(async () => {
        using cache = backend.createKvCache();
        await fill(backend, cache, promptIds(tokens, vocabSize), chunk);
      });
    const firstMs = await run();
    const bestMs = await best(repeats, run);
    speeds.prefill.push({ tokens, chunk, firstMs, bestMs, tokensPerS: 1000 * tokens / bestMs });
  }
  for (const context of contexts) {
    using prompt = backend.createKvCache();
    const first = await fill(backend, prompt, promptIds(context, vocabSize), 512);
    /** Tokens of a sampler after the prompt, and the milliseconds of one, the first few left out. */
    const decode = async (sampler: Sampler, most: number) => {
      prompt.truncate(context);
      const ids: number[] = [];
      const take = async (count: number) => {
        for (let left = count - 1; left >= 0; left--) {
          const ahead = Math.min(most, left);
          const [row] = await backend.forward([{
            cache: prompt,
            tokenIds: [ids.at(-1) ?? first],
            top: sampler.wanted,
            ahead,
            draw: sampler.upcoming(Math.min(ahead, backend.info.stepsAhead ?? 0) + 1),
          }]);
          ids.push(sampler.sample(row!.top?.[0] ?? row!.logits).id);
        }
      };
      // Captures the step, where that is done, and fills what is pipelined.
      await take(8);
      return { ms: await milliseconds(() => take(decodeTokens)) / decodeTokens, text: ids.join() };
    };
    let wanted: string | undefined;
    for (const ahead of aheads) {
      const { ms, text } = await decode(new Sampler(GREEDY), ahead);
      wanted ??= text;
      speeds.decode.push({ context, ahead, ms, tokensPerS: 1000 / ms, sameIds: text === wanted });
    }
    for (const [sampling, params] of Object.entries(SAMPLINGS)) {
      for (const ahead of aheads) {
        const { ms } = await decode(new Sampler(resolveSamplingParams({ doSample: true, seed: 1, ...params })), ahead);
        speeds.drawn.push({ context, sampling, ahead, ms, tokensPerS: 1000 / ms });
      }
    }
  }
  return speeds;
}

/** @returns the best id after the prompt */
async function fill(
  backend: Backend,
  cache: ReturnType<Backend["createKvCache"]>,
  ids: readonly number[],
  chunk: number,
): Promise<number> {
  let id = 0;
  for (let at = 0; at < ids.length; at += chunk) {
    const last = at + chunk >= ids.length;
    const [row] = await backend.forward([{
      cache,
      tokenIds: ids.slice(at, at + chunk),
      top: 1,
      logits: last ? "last" : "none",
    }]);
    if (last) id = bestId(row);
  }
  return id;
}
