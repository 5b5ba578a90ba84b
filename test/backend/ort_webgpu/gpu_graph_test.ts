/** The graph that a GPU gets, of every layout; needs no GPU. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { rewriteForGpu } from "../../../src/backend/ort_webgpu/gpu_graph.ts";
import { WeightBlob } from "../../../src/backend/ort_webgpu/weight_source.ts";
import { readDecoderGraph } from "../../../src/model/decoder_graph.ts";
import { DataType, decodeModel } from "../../../src/model/onnx_proto.ts";
import { readOnnx } from "../../../src/model/read_onnx.ts";
import { TensorFiles } from "../../../src/model/tensor_bytes.ts";
import { caseName, LAYOUT_CASES, type LayoutModel, layoutModel } from "../layout_cases.ts";

/** What onnxruntime's WebGPU has kernels for, and what is no look at a shape. */
const ON_THE_GPU = new Set([
  "Cast",
  "Gather",
  "GatherBlockQuantized",
  "GroupQueryAttention",
  "MatMulNBits",
  "Mul",
  "Sigmoid",
  "SimplifiedLayerNormalization",
  "SkipSimplifiedLayerNormalization",
]);

/** The rewritten graph, and each weight's bytes by the tensor's name. */
async function rewrite({ onnxPath, config }: LayoutModel, half: boolean) {
  const original = readOnnx(onnxPath);
  using files = new TensorFiles(onnxPath);
  const decoder = readDecoderGraph(original, config);
  const made = rewriteForGpu(original, decoder, files, { half, activations: "f32" });
  const { graph } = decodeModel(made.graph);
  const weights = new Map<string, Uint8Array<ArrayBuffer>>();
  for (const { name, externalData } of graph.initializer) {
    const blob = new WeightBlob(made.weights.get(externalData!.find(({ key }) => key === "location")!.value)!);
    assert.equal(Number(externalData!.find(({ key }) => key === "length")!.value), blob.size, name);
    weights.set(name, new Uint8Array(await new Response(blob.stream()).arrayBuffer()));
  }
  for (const { name, bytes } of [made.rotary.cos, made.rotary.sin]) {
    const whole = new Uint8Array(bytes.length);
    bytes.read(0, whole);
    weights.set(name, whole);
  }
  return { graph, weights, hiddenStates: made.hiddenStates };
}

describe("rewriteForGpu()", () => {
  for (const item of LAYOUT_CASES.filter(({ size }) => size !== "tiny-wide")) {
    test(`leaves nothing of ${caseName(item)} to the CPU, and every weight is the file's`, async () => {
      await using model = await layoutModel(item);
      const [floats, halves] = [await rewrite(model, false), await rewrite(model, true)];
      for (const { graph, weights, hiddenStates } of [floats, halves]) {
        assert.deepEqual(graph.node.filter(({ opType }) => !ON_THE_GPU.has(opType)), []);
        const { numHiddenLayers: layers } = model.config;
        assert.equal(graph.node.filter(({ opType }) => opType === "GroupQueryAttention").length, layers);
        // qkv, o, gate, up and down, and lm_head.
        assert.equal(graph.node.filter(({ opType }) => opType === "MatMulNBits").length, 5 * layers + 1);
        const lengths = ["seqlens_k", "total_sequence_length"];
        const past = Array.from({ length: layers }, (_, i) => ["key", "value"].map((k) => `past_key_values.${i}.${k}`));
        const inputs = graph.input.map(({ name }) => name).sort();
        const tables = ["cos_cache", "sin_cache"];
        assert.deepEqual(inputs, [...tables, "input_ids", "logits_positions", ...past.flat(), ...lengths].sort());
        assert.deepEqual(graph.output.filter(({ name }) => !name.startsWith("present.")).map(({ name }) => name), [
          "logits",
          hiddenStates,
        ]);
        // Every value is made before it is read, once.
        const made = new Set([...inputs, ...graph.initializer.map(({ name }) => name), ""]);
        for (const node of graph.node) {
          for (const name of node.input) assert.ok(made.has(name), `${node.name} reads ${name}`);
          for (const name of node.output.filter(Boolean)) {
            assert.ok(!made.has(name), name);
            made.add(name);
          }
        }
        assert.ok([...weights.values()].every(({ length }) => length > 0));
      }
      const head = halves.graph.node.find(({ output }) => output[0] === "logits")!;
      for (const { name, dataType } of halves.graph.initializer) {
        assert.equal(dataType === DataType.FLOAT, dataType !== DataType.UINT8 && head.input.includes(name), name);
      }
      for (const [name, half] of halves.weights) {
        const full = floats.weights.get(name.replace(/\.f16$/, ""))!;
        if (full.length === half.length) assert.deepEqual(half, full, name);
        else assert.deepEqual(new Float16Array(half.buffer), new Float16Array(new Float32Array(full.buffer)), name);
      }
    });
  }
});
