/**
 * onnxruntime-web's own int8 product, DynamicQuantizeMatMul, on the matrices of Phi-3-mini: the fastest quantized one
 * that it has in WASM. It answers each line of its input, a number of runs, with a line: billions of operations a second.
 */
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-web";
import { DataType, encodeModel, type OnnxNode, type OnnxTensor } from "../../src/model/onnx_proto.ts";
import { LAYER_PRODUCTS, SHAPES } from "./shapes.ts";

const { values: flags } = parseArgs({
  options: { threads: { type: "string", default: "1" }, rows: { type: "string", default: "64" } },
});
const rows = Number(flags.rows);
const inputName = (k: number) => `x${k}`;

const tensor = (name: string, dataType: number, dims: number[], rawData: Uint8Array): OnnxTensor => ({
  name,
  dataType,
  dims,
  rawData,
});
const initializer: OnnxTensor[] = [tensor("scale", DataType.FLOAT, [1], new Uint8Array(Float32Array.of(0.01).buffer))];
const node: OnnxNode[] = SHAPES.map(([n, k], i) => {
  const weights = Uint8Array.from({ length: n * k }, (_, j) => (j * 7919) % 251);
  initializer.push(tensor(`w${i}`, DataType.UINT8, [k, n], weights));
  return {
    name: `product${i}`,
    opType: "DynamicQuantizeMatMul",
    domain: "com.microsoft",
    input: [inputName(k), `w${i}`, "scale"],
    output: [`y${i}`],
    attribute: [],
  };
});
const info = (name: string, columns: number) => ({
  name,
  type: { tensorType: { elemType: DataType.FLOAT, shape: { dim: [{ dimValue: rows }, { dimValue: columns }] } } },
});
const model = encodeModel({
  irVersion: 10,
  opsetImport: [{ domain: "", version: 21 }, { domain: "com.microsoft", version: 1 }],
  graph: {
    name: "products",
    node,
    initializer,
    input: [3072, 8192].map((k) => info(inputName(k), k)),
    output: SHAPES.map(([n], i) => info(`y${i}`, n)),
  },
});

ort.env.wasm.numThreads = Number(flags.threads);
const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
const feeds = Object.fromEntries([3072, 8192].map((k) => {
  const values = Float32Array.from({ length: rows * k }, (_, i) => (i * 7919) % 255 - 127);
  return [inputName(k), new ort.Tensor("float32", values, [rows, k])];
}));

for await (const line of createInterface({ input: process.stdin })) {
  let best = Infinity;
  for (let run = 0; run <= Number(line); run++) {
    const startedAt = performance.now();
    await session.run(feeds);
    if (run > 0) best = Math.min(best, performance.now() - startedAt);
  }
  console.log(JSON.stringify(2 * rows * LAYER_PRODUCTS / best / 1e6));
}
process.exit(0);
