/** The peer that everybody has: onnxruntime-web's public API on the unmodified model, in a thread of its own. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parentPort, workerData } from "node:worker_threads";
import * as ort from "onnxruntime-web";
import type { ModelConfig } from "../src/model/model_config.ts";

const { folder, config, threads } = workerData as { folder: string; config: ModelConfig; threads: number };
const port = parentPort!;

ort.env.wasm.numThreads = threads;
const onnx = join(folder, "onnx");
const files = ["model_q4.onnx_data", "model_q4.onnx_data_1", "model_q4.onnx_data_2"];
const session = await ort.InferenceSession.create(readFileSync(join(onnx, "model_q4.onnx")), {
  executionProviders: ["wasm"],
  externalData: files.map((path) => ({ path, data: readFileSync(join(onnx, path)) })),
});
const layers = Array.from({ length: config.numHiddenLayers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
let past: Record<string, ort.Tensor> = {};
let length = 0;

/** A cache of `tokens` tokens of small numbers: the time of a pass does not depend on them. */
function fill(tokens: number): void {
  length = tokens;
  const dims = [1, config.numKeyValueHeads, tokens, config.headDim];
  const count = dims.reduce((a, b) => a * b);
  past = Object.fromEntries(layers.map((name, layer) => {
    const data = Float32Array.from({ length: count }, (_, i) => Math.sin(i + layer) / 8);
    return [`past_key_values.${name}`, new ort.Tensor("float32", data, dims)];
  }));
}

port.on("message", async (message: { fill: number } | { ids: number[]; keep: boolean }) => {
  if ("fill" in message) {
    fill(message.fill);
    return port.postMessage({ ms: 0 });
  }
  const { ids, keep } = message;
  const total = length + ids.length;
  const startedAt = performance.now();
  const outputs = await session.run({
    input_ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
    attention_mask: new ort.Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]),
    ...past,
  });
  const ms = performance.now() - startedAt;
  const logits = (outputs.logits!.data as Float32Array).slice((ids.length - 1) * config.vocabSize);
  if (keep) {
    past = Object.fromEntries(layers.map((name) => [`past_key_values.${name}`, outputs[`present.${name}`]!]));
    length = total;
  }
  port.postMessage({ ms, logits });
});
port.postMessage({ ms: 0 });
