/**
 * Our next-token probabilities against llama.cpp's on the GGUF that the bundled model was built from: teacher forcing
 * over the passages of `texts.ts`, all positions, the whole vocabulary. Ends in one line, `N passed, N failed`.
 *
 *   HEARTH_GGUF=model.gguf bun test/parity/logits_llama_cpp.ts
 *
 * llama.cpp rounds activations to 8 bits before it multiplies with quantized weights, and keeps KV in f16: that is
 * what the bounds allow for. On a copy of the GGUF with its weights expanded to f32, where only KV is rounded, the
 * mean KL was 8.7e-7 and the likeliest token the same at 99.91 % of positions (3.1e-3 and 96.6 % on the GGUF itself).
 */
import { type ControlledEvaluateInputItem, getLlama, type LlamaContextSequence, LlamaLogLevel } from "node-llama-cpp";
import { argmax, logSumExp } from "../../src/sampling/softmax.ts";
import { chunksOf, OurModel, rowsOf } from "./our_model.ts";
import { Report } from "./report.ts";
import { passages } from "./texts.ts";

const MAX_MEAN_KL = 0.01;
/** Over all passages: where the model is unsure, as in languages it hardly knows, many tokens hang on a near-tie. */
const MIN_SAME_ARGMAX = 0.95;

/** KL(theirs || ours) in nats. */
function divergence(ours: Float32Array, theirs: Float32Array): number {
  const [ourNorm, theirNorm] = [logSumExp(ours), logSumExp(theirs)];
  let sum = 0;
  for (let i = 0; i < theirs.length; i++) {
    const logProbability = theirs[i]! - theirNorm;
    sum += Math.exp(logProbability) * (logProbability - (ours[i]! - ourNorm));
  }
  return sum;
}

/** A position, with how sure each side is of its token over the other's: difference of logits. */
interface Position {
  kl: number;
  our: number;
  their: number;
  ourMargin: number;
  theirMargin: number;
}

function compare(ours: Float32Array, theirs: Float32Array): Position {
  const [our, their] = [argmax(ours), argmax(theirs)];
  return {
    kl: divergence(ours, theirs),
    our,
    their,
    ourMargin: ours[our]! - ours[their]!,
    theirMargin: theirs[their]! - theirs[our]!,
  };
}

function figuresOf(positions: readonly Position[]) {
  const kls = positions.map(({ kl }) => kl).sort((a, b) => a - b);
  const meanKl = kls.reduce((total, kl) => total + kl, 0) / kls.length;
  const same = positions.filter(({ our, their }) => our === their).length / positions.length;
  const quantile = (share: number) => kls[Math.floor(share * (kls.length - 1))]!.toExponential(2);
  const figures = `${positions.length} positions, KL mean ${meanKl.toExponential(2)}, median ${quantile(0.5)}, ` +
    `99 % ${quantile(0.99)}, max ${quantile(1)}; same argmax at ${(100 * same).toFixed(2)} %`;
  return { meanKl, same, figures };
}

/** Logits come as a map a position, which takes megabytes: so many positions are asked for at once. */
const POSITIONS_AT_ONCE = 32;

/** Logits at all positions, chunk by chunk, as llama.cpp has them before any sampling. */
async function* llamaLogits(sequence: LlamaContextSequence, chunks: readonly (readonly number[])[], vocabSize: number) {
  await sequence.clearHistory();
  for (const chunk of chunks) {
    const rows: Float32Array[] = [];
    for (let at = 0; at < chunk.length; at += POSITIONS_AT_ONCE) {
      const ids = chunk.slice(at, at + POSITIONS_AT_ONCE);
      const input = ids.map((id) => [id, { generateNext: { logits: true } }] as ControlledEvaluateInputItem);
      const outputs = await sequence.controlledEvaluate(input);
      rows.push(...ids.map((_, i) => rowOf(outputs[i]?.next.logits, vocabSize)));
    }
    yield rows;
  }
}

function rowOf(logits: ReadonlyMap<number, number> | undefined, vocabSize: number): Float32Array {
  if (logits?.size !== vocabSize) throw new Error(`llama.cpp gave ${logits?.size} logits, wanted ${vocabSize}`);
  const row = new Float32Array(vocabSize);
  for (const [id, logit] of logits) row[id] = logit;
  return row;
}

const report = new Report();
await report.attempt("llama.cpp", async () => {
  const modelPath = process.env.HEARTH_GGUF;
  if (!modelPath) throw new Error("Cannot ask llama.cpp: set HEARTH_GGUF to the GGUF the model was built from");
  await using model = await OurModel.load();
  const { info } = model.backend;
  await using llama = await getLlama({ build: "never", gpu: false, logLevel: LlamaLogLevel.error });
  await using llamaModel = await llama.loadModel({ modelPath });
  await using context = await llamaModel.createContext({ contextSize: 1024, threads: info.threads });
  const sequence = context.getSequence();
  console.log(`     ours: ${info.variant}; theirs: llama.cpp ${llama.llamaCppRelease.release}`);

  const all: Position[] = [];
  for (const passage of passages) {
    const ids = await model.encode(passage);
    const chunks = chunksOf(ids);
    const positions: Position[] = [];
    const theirs = llamaLogits(sequence, chunks, model.vocabSize);
    for await (const ourChunk of model.logits(chunks)) {
      const { value: theirRows } = await theirs.next();
      rowsOf(ourChunk, model.vocabSize).forEach((row, i) => positions.push(compare(row, theirRows![i]!)));
    }
    const { meanKl, figures } = figuresOf(positions);
    const complete = positions.length === ids.length;
    report.check(passage.name, complete && meanKl <= MAX_MEAN_KL, figures);
    all.push(...positions);
  }

  const { meanKl, same, figures } = figuresOf(all);
  report.check("all passages, probabilities", all.length >= 1000 && meanKl <= MAX_MEAN_KL, figures);
  report.check("all passages, likeliest token", same >= MIN_SAME_ARGMAX, `the same at ${(100 * same).toFixed(2)} %`);
  const differing = all.filter(({ our, their }) => our !== their).sort((a, b) => b.ourMargin - a.ourMargin);
  console.log(`     ${differing.length} differing tokens; the clearest of them, with the lead of each side's own:`);
  for (const { our, their, ourMargin, theirMargin } of differing.slice(0, 10)) {
    const [here, there] = [ourMargin, theirMargin].map((margin) => margin.toFixed(3));
    console.log(`     ours ${model.token(our)} by ${here}, theirs ${model.token(their)} by ${there}`);
  }
});
report.end();
