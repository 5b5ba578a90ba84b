/** onnxruntime, native, on the unmodified file: KV goes in and comes out in two sets of buffers that take turns. */
import { join } from "node:path";
import * as ort from "onnxruntime-node";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { servePeer, timeTokens } from "./peer.ts";

const CAPACITY = 1024;

await servePeer(async ({ modelFolder, threads }) => {
  const { config } = await readModelFolder(modelFolder);
  const { numHiddenLayers, numKeyValueHeads, headDim, vocabSize } = config;
  const session = await ort.InferenceSession.create(join(modelFolder, "onnx", "model_q4.onnx"), {
    executionProviders: ["cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    graphOptimizationLevel: "all",
  });
  const names = Array.from({ length: numHiddenLayers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
  const tokenSize = numKeyValueHeads * headDim;
  // A pass reads one set and writes the other: its output has another shape than its input.
  const sets = [0, 1].map(() => names.map(() => new Float32Array(tokenSize * CAPACITY)));
  const int64 = (ids: readonly number[]) => new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
  const kv = (prefix: string, set: Float32Array[], tokens: number) =>
    names.map((name, i) => {
      const data = set[i]!.subarray(0, tokenSize * tokens);
      return [prefix + name, new ort.Tensor("float32", data, [1, numKeyValueHeads, tokens, headDim])] as const;
    });

  /** Evaluates `ids` after the `past` tokens of `from`, leaves the longer cache in `to`. */
  async function forward(ids: readonly number[], past: number, from: Float32Array[], to: Float32Array[]) {
    const total = past + ids.length;
    const { logits } = await session.run({
      input_ids: int64(ids),
      attention_mask: int64(new Array(total).fill(1)),
      ...Object.fromEntries(kv("past_key_values.", from, past)),
    }, { logits: null, ...Object.fromEntries(kv("present.", to, total)) });
    return (logits!.data as Float32Array).subarray((ids.length - 1) * vocabSize);
  }

  return {
    version: `onnxruntime-node ${ort.env.versions.node}, int4`,
    async generate(request) {
      let [from, to] = [sets[0]!, sets[1]!];
      let past = 0;
      let next = request.prompt.ids;
      return await timeTokens(request, async () => {
        const id = argmax(await forward(next, past, from, to));
        past += next.length;
        next = [id];
        [from, to] = [to, from];
        return id;
      });
    },
  };
});
