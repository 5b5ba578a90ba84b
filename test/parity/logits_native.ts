/**
 * Our logits against those of onnxruntime's native build on the same file: teacher forcing over the passages of
 * `texts.ts`, all positions, the whole vocabulary. Ends in one line, `N passed, N failed`.
 *
 *   bun test/parity/logits_native.ts
 *
 * Both compute in f32; what differs is the order of sums, and that ours expands the int4 weights beforehand.
 */
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import type { ModelConfig } from "../../src/model/model_config.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { chunksOf, OurModel, rowsOf } from "./our_model.ts";
import { Report } from "./report.ts";
import { passages } from "./texts.ts";

const MAX_DIFFERENCE = 1e-2;
const MIN_SAME_ARGMAX = 0.999;

/** Figures of a passage, or of all. */
class Comparison {
  positions = 0;
  maxDifference = 0;
  /** One line a position where the likeliest tokens differ. */
  readonly differing: string[] = [];
  #sum = 0;
  #values = 0;

  add(ours: Float32Array, theirs: Float32Array, tokenName: (id: number) => string): void {
    for (let i = 0; i < theirs.length; i++) {
      const difference = Math.abs(ours[i]! - theirs[i]!);
      // Written so that NaN counts as the largest difference.
      if (!(difference <= this.maxDifference)) this.maxDifference = Number.isNaN(difference) ? Infinity : difference;
      this.#sum += difference;
    }
    this.#values += theirs.length;
    const [our, their] = [argmax(ours), argmax(theirs)];
    if (our !== their) {
      const margins = [ours[our]! - ours[their]!, theirs[their]! - theirs[our]!].map((margin) =>
        margin.toExponential(2)
      );
      this.differing.push(
        `position ${this.positions}: ours ${tokenName(our)} by ${margins[0]}, theirs ${tokenName(their)} by ${
          margins[1]
        }`,
      );
    }
    this.positions++;
  }

  get same(): number {
    return this.positions - this.differing.length;
  }

  get figures(): string {
    return `${this.positions} positions, max |logit difference| ${this.maxDifference.toExponential(2)}, ` +
      `mean ${(this.#sum / this.#values).toExponential(2)}, same argmax at ${this.same}`;
  }
}

/** Logits at all positions, chunk by chunk, by the public API of onnxruntime-node. */
async function* nativeLogits(session: InferenceSession, config: ModelConfig, chunks: readonly (readonly number[])[]) {
  const { numHiddenLayers, numKeyValueHeads, headDim } = config;
  const names = Array.from({ length: numHiddenLayers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const empty = () => new Tensor("float32", new Float32Array(0), [1, numKeyValueHeads, 0, headDim]);
  let past: Tensor[] = names.map(empty);
  let total = 0;
  for (const chunk of chunks) {
    total += chunk.length;
    const outputs = await session.run({
      input_ids: new Tensor("int64", BigInt64Array.from(chunk, BigInt), [1, chunk.length]),
      attention_mask: new Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]),
      ...Object.fromEntries(names.map((name, i) => [`past_key_values.${name}`, past[i]!])),
    });
    past = names.map((name) => outputs[`present.${name}`]!);
    yield outputs.logits!.data as Float32Array;
  }
}

const report = new Report();
await report.attempt("onnxruntime-node", async () => {
  await using model = await OurModel.load();
  const { config, path } = model.folder;
  const session = await InferenceSession.create(join(path, "onnx", "model_q4.onnx"), {
    intraOpNumThreads: model.backend.info.threads,
  });
  console.log(`     ours: ${model.backend.info.variant}, ${model.backend.info.detail}`);
  const all = new Comparison();
  for (const passage of passages) {
    const ids = await model.encode(passage);
    const chunks = chunksOf(ids);
    const here = new Comparison();
    const theirs = nativeLogits(session, config, chunks);
    for await (const ourChunk of model.logits(chunks)) {
      const { value: theirChunk } = await theirs.next();
      if (theirChunk?.length !== ourChunk.length) throw new Error(`Cannot compare ${passage.name}: lengths differ`);
      const theirRows = rowsOf(theirChunk, model.vocabSize);
      rowsOf(ourChunk, model.vocabSize).forEach((row, i) => {
        for (const comparison of [here, all]) comparison.add(row, theirRows[i]!, (id) => model.token(id));
      });
    }
    const complete = here.positions === ids.length;
    report.check(passage.name, complete && here.maxDifference <= MAX_DIFFERENCE, here.figures);
    for (const line of here.differing) console.log(`     ${line}`);
  }
  await session.release();
  const share = all.same / all.positions;
  report.check(
    "all passages",
    all.positions >= 1000 && share >= MIN_SAME_ARGMAX && all.maxDifference <= MAX_DIFFERENCE,
    `${all.figures} (${(100 * share).toFixed(2)} %)`,
  );
});
report.end();
