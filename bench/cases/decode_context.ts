import { argmax } from "../../src/sampling/softmax.ts";
import { PlainOrt } from "../plain_ort.ts";
import { milliseconds } from "../statistics.ts";
import type { Case } from "./case.ts";

const PREFILL = 64;

/** One-token passes at growing context and a 64-token prefill, against the same file on plain onnxruntime-web. */
export const decodeContext: Case = async ({ engine, quick, progress }) => {
  const { backend, model } = engine;
  const { name } = backend.info;
  // With activations rounded to int8 logits differ in the first decimal.
  const tolerance = name === "simd" ? 1 : 1e-2;
  const contexts = quick ? [50, 200] : [50, 500, 1500];
  const rounds = quick ? 2 : 8;
  progress("starting plain onnxruntime-web");
  await using plain = await PlainOrt.start(model, backend.info.threads);
  const ids = (count: number) => Array.from({ length: count }, (_, i) => 100 + (i * 7919) % 40_000);

  const prompt = engine.tokenizer.encode("The capital of France is");
  await plain.fill(0);
  const want = (await plain.forward(prompt)).logits;
  const got = (await backend.forward([{ tokenIds: prompt }]))[0]!.logits;
  const difference = got.reduce((max, logit, i) => Math.max(max, Math.abs(logit - want[i]!)), 0);
  if (difference > tolerance || argmax(got) !== argmax(want)) {
    throw new Error(`Cannot compare speeds: logits differ by ${difference}, wanted ${tolerance} or less`);
  }

  const decode: { context: number; ours: number; plain: number }[] = [];
  for (const context of contexts) {
    using cache = backend.createKvCache();
    for (let at = 0; at < context; at += 128) {
      await backend.forward([{ cache, tokenIds: ids(Math.min(128, context - at)), logits: "none" }]);
    }
    await plain.fill(context);
    const times = { context, ours: Infinity, plain: Infinity };
    // One after the other, so that a busy neighbour hits both.
    for (let round = 0; round < rounds; round++) {
      progress(`decode at ${context}, round ${round + 1} of ${rounds}`);
      times.plain = Math.min(times.plain, (await plain.forward([5])).ms);
      for (let i = 0; i < 4; i++) {
        cache.truncate(context);
        const ms = await milliseconds(() => backend.forward([{ cache, tokenIds: [5] }]));
        times.ours = Math.min(times.ours, ms);
      }
    }
    decode.push(times);
  }
  const prefill = { ours: Infinity, plain: Infinity };
  await plain.fill(0);
  for (let round = 0; round < Math.max(2, rounds / 2); round++) {
    progress(`prefill, round ${round + 1}`);
    prefill.plain = Math.min(prefill.plain, (await plain.forward(ids(PREFILL))).ms);
    using cache = backend.createKvCache();
    prefill.ours = Math.min(
      prefill.ours,
      await milliseconds(() => backend.forward([{ cache, tokenIds: ids(PREFILL) }])),
    );
  }
  const [short, long] = [decode[0]!, decode.at(-1)!];
  return {
    name: "decode_context",
    question: "How long does a token take at growing context, beside the same file on plain onnxruntime-web?",
    checked: `logits agree within ${difference.toExponential(1)}`,
    rows: [
      ...decode.map(({ context, ours, plain }) => ({
        work: `decode at ${context} tokens`,
        [`${name} ms`]: ours,
        "plain int4 ms": plain,
        [`plain / ${name}`]: plain / ours,
      })),
      {
        work: `prefill of ${PREFILL} tokens`,
        [`${name} ms`]: prefill.ours,
        "plain int4 ms": prefill.plain,
        [`plain / ${name}`]: prefill.plain / prefill.ours,
      },
    ],
    figures: {
      decodeRatioShort: short.plain / short.ours,
      decodeLongOverShort: long.ours / short.ours,
      prefillRatio: prefill.plain / prefill.ours,
      residentMiB: Math.round(process.memoryUsage().rss / 2 ** 20),
    },
    plot: {
      title: "Decode, time a token",
      x: "tokens of context",
      y: "ms a token",
      points: decode.flatMap(({ context, ours, plain }) => [
        { x: context, y: ours, series: name },
        { x: context, y: plain, series: "plain onnxruntime-web (int4)" },
      ]),
    },
  };
};
