import { mean, milliseconds, standardDeviation } from "../statistics.ts";
import { type Answer, answer, type Case, requireSameTokens } from "./case.ts";

const PROMPT = "Write a very long email apologizing to Sarah for the tragic gardening mishap. Explain how it happened.";

/** The book's comparison: the same answer with `use_cache: true` and `false`. */
export const useCache: Case = async ({ engine, runs, quick, progress }) => {
  const maxTokens = quick ? 16 : 100;
  const prompt = { messages: [{ role: "user", content: PROMPT }] };
  const time = async (useCache: boolean) => {
    const times: number[] = [];
    let last: Answer | undefined;
    for (let run = 0; run < runs; run++) {
      progress(`use_cache ${useCache}, run ${run + 1} of ${runs}`);
      const request = { prompt, maxTokens, ignoreEos: true, useCache };
      times.push(await milliseconds(async () => last = await answer(engine, request)));
    }
    return { times, ids: last!.ids };
  };
  await answer(engine, { prompt, maxTokens: 4 });
  const on = await time(true);
  const off = await time(false);
  requireSameTokens("use_cache false", off.ids, on.ids);
  const row = (name: string, { times }: { times: number[] }) => ({
    use_cache: name,
    "mean s": mean(times) / 1000,
    "standard deviation s": standardDeviation(times) / 1000,
    "tokens/s": maxTokens / (mean(times) / 1000),
  });
  return {
    name: "use_cache",
    question: `How long do ${maxTokens} tokens take with the KV cache, and without?`,
    checked: `both gave the same ${maxTokens} tokens`,
    rows: [row("true", on), row("false", off)],
    figures: {
      tokens: maxTokens,
      runs,
      onS: mean(on.times) / 1000,
      offS: mean(off.times) / 1000,
      ratio: mean(off.times) / mean(on.times),
    },
    plot: {
      title: `${maxTokens} tokens with and without the KV cache`,
      x: "use_cache",
      y: "seconds",
      points: [on, off].flatMap(({ times }, i) =>
        times.map((ms, run) => ({ x: i === 0 ? "true" : "false", y: ms / 1000, series: `run ${run + 1}` }))
      ),
    },
  };
};
