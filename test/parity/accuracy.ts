/**
 * What rounding costs: the `simd` engine reads 8,000 and more tokens beside an f32 reference of the same weights
 * (`ort-wasm` on weights expanded to f32), with f32 KV and with int8 KV.
 * For each: the mean KL divergence of its next-token distribution from the reference's, how often the likeliest token is
 * the same, and its perplexity on the text against the reference's.
 */
import { readFileSync } from "node:fs";
import type { Backend } from "../../src/backend/backend.ts";
import { availableCpus } from "../../src/backend/host_resources.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { argmax, logSumExp } from "../../src/sampling/softmax.ts";
import { OurModel, rowsOf } from "./our_model.ts";
import { Report } from "./report.ts";
import { type Passage, passages } from "./texts.ts";

/** Bounds: mean KL in nats, share of equal argmax, relative difference of perplexity. */
const MAX_KL = { f32: 0.004, int8: 0.005 } as const;
const MIN_SAME = 0.95;
const MAX_PERPLEXITY = 0.01;
const MIN_TOKENS = 8000;

/** Tokens of a sequence at most, and of a pass. */
const LENGTH = 1024;
const CHUNK = 128;

/** This project's own texts and programs, beside the passages: as many as make 8,000 tokens. */
const FILES = [
  "CONTRIBUTING.md",
  "src/engine/generation.ts",
  "wasm/src/threads.rs",
  "models/smollm2-135m-instruct/README.md",
];

class Distance {
  tokens = 0;
  same = 0;
  divergence = 0;
  readonly loss = { ours: 0, theirs: 0 };

  /** @param next the token that the text goes on with */
  add(theirs: Float32Array, ours: Float32Array, next: number): void {
    const [theirNorm, ourNorm] = [logSumExp(theirs), logSumExp(ours)];
    for (let id = 0; id < theirs.length; id++) {
      const logprob = theirs[id]! - theirNorm;
      this.divergence += Math.exp(logprob) * (logprob - (ours[id]! - ourNorm));
    }
    if (argmax(theirs) === argmax(ours)) this.same++;
    this.loss.theirs += theirNorm - theirs[next]!;
    this.loss.ours += ourNorm - ours[next]!;
    this.tokens++;
  }
}

/** Sequences of token ids, none longer than `LENGTH`. */
async function sequences(model: OurModel): Promise<number[][]> {
  const root = new URL("../../", import.meta.url);
  const files = FILES.map((name): Passage => ({ name, text: readFileSync(new URL(name, root), "utf8") }));
  const texts = await Promise.all([...passages, ...files].map((passage) => model.encode(passage)));
  return texts.flatMap((ids) => {
    const parts = Array.from({ length: Math.ceil(ids.length / LENGTH) }, (_, i) => i * LENGTH);
    return parts.map((at) => ids.slice(at, at + LENGTH)).filter(({ length }) => length > 1);
  });
}

const report = new Report();
await report.attempt("simd", async () => {
  await using model = await OurModel.load();
  const { path, config } = model.folder;
  const load = (kv: "f32" | "int8") => createSimdBackend({ modelDir: path, config, threads: availableCpus(), kv });
  await using f32 = await load("f32");
  await using int8 = await load("int8");
  const found = { f32: new Distance(), int8: new Distance() };
  for (const ids of await sequences(model)) {
    const caches = [model.backend, f32, int8].map((backend: Backend) => ({ backend, cache: backend.createKvCache() }));
    // The last token has none that follows it.
    for (let at = 0; at < ids.length - 1; at += CHUNK) {
      const tokenIds = ids.slice(at, Math.min(at + CHUNK, ids.length - 1));
      const rows: Float32Array[][] = [];
      for (const { backend, cache } of caches) {
        const [result] = await backend.forward([{ cache, tokenIds, logits: "all" }]);
        rows.push(rowsOf(result!.logits, config.vocabSize));
      }
      const [theirs, ours, rounded] = rows;
      theirs!.forEach((row, i) => {
        found.f32.add(row, ours![i]!, ids[at + i + 1]!);
        found.int8.add(row, rounded![i]!, ids[at + i + 1]!);
      });
    }
    for (const { cache } of caches) cache.dispose();
  }
  for (const kv of ["f32", "int8"] as const) {
    const { tokens, same, divergence, loss } = found[kv];
    const [ours, theirs] = [loss.ours, loss.theirs].map((sum) => Math.exp(sum / tokens));
    const kl = divergence / tokens;
    const more = ours! / theirs! - 1;
    report.check(
      `int8 activations, ${kv} KV`,
      tokens >= MIN_TOKENS && kl <= MAX_KL[kv] && same >= MIN_SAME * tokens && Math.abs(more) <= MAX_PERPLEXITY,
      `${tokens} tokens, mean KL ${kl.toExponential(2)}, same argmax ${(100 * same / tokens).toFixed(2)} %, ` +
        `perplexity ${ours!.toFixed(3)} against ${theirs!.toFixed(3)} (${(100 * more).toFixed(2)} %)`,
    );
  }
});
report.end();
