/** Forms of zero points that files may have, on a graph with f32 scales and on one with f16. */
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { createOrtWasmBackend } from "../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { float16Array } from "../../src/model/float16.ts";
import { DataType, decodeModel, encodeModel, type OnnxModel, type OnnxTensor } from "../../src/model/onnx_proto.ts";
import { LAYOUT_CASES, layoutModel, promptOf } from "./layout_cases.ts";

type Form = "packed" | "f32" | "f16";

/** Zero points 6 to 10 of `rows` of `blocks`, the same numbers in every form. */
function zeroPoints(name: string, form: Form, rows: number, blocks: number): OnnxTensor {
  const at = (row: number, block: number) => 6 + (row * 7 + block * 3) % 5;
  if (form === "packed") {
    const rawData = new Uint8Array(rows * Math.ceil(blocks / 2));
    for (let row = 0; row < rows; row++) {
      for (let block = 0; block < blocks; block++) {
        rawData[row * Math.ceil(blocks / 2) + (block >> 1)]! |= at(row, block) << (block % 2 * 4);
      }
    }
    return { name, dataType: DataType.UINT8, dims: [rawData.length], rawData };
  }
  const values = Float32Array.from({ length: rows * blocks }, (_, i) => at(Math.floor(i / blocks), i % blocks));
  const data = form === "f16" ? float16Array(values) : values;
  const dataType = form === "f16" ? DataType.FLOAT16 : DataType.FLOAT;
  return { name, dataType, dims: [values.length], rawData: new Uint8Array(data.buffer) };
}

function addZeroPoints(model: OnnxModel, form: Form): void {
  for (const node of model.graph.node.filter(({ opType }) => opType === "MatMulNBits")) {
    const int = (name: string) => node.attribute.find((item) => item.name === name)!.i!;
    const name = `${node.name}.zeros`;
    model.graph.initializer.push(zeroPoints(name, form, int("N"), int("K") / 32));
    node.input[3] = name;
  }
}

const difference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((max, logit, i) => Math.max(max, Math.abs(logit - b[i]!)), 0);

for (const [layout, forms] of [["xenova", ["packed", "f32"]], ["web", ["packed", "f16"]]] as const) {
  test(`${layout}: zero points mean the same as ${forms.join(" and ")}, on simd and ort-wasm`, async () => {
    const item = LAYOUT_CASES.find((item) => item.size === "tiny" && item.layout === layout)!;
    const prompt = promptOf(item).slice(0, 40);
    const exact: Float32Array[] = [];
    const ours: Float32Array[] = [];
    for (const form of forms) {
      await using model = await layoutModel(item);
      const { path, onnxPath, config } = model;
      const onnx = decodeModel(readFileSync(onnxPath));
      addZeroPoints(onnx, form);
      writeFileSync(onnxPath, encodeModel(onnx));
      const ort = { modelDir: path, config, threads: 1, memoryBudgetBytes: 2 ** 31 };
      await using simd = await createSimdBackend({ modelDir: path, config, activations: "f32" });
      await using expanded = await createOrtWasmBackend(ort);
      await using int4 = await createOrtWasmBackend({ ...ort, weights: "int4" });
      for (const [backend, to] of [[simd, ours], [expanded, exact], [int4, exact]] as const) {
        to.push((await backend.forward([{ tokenIds: prompt, logits: "all" }]))[0]!.logits);
      }
    }
    const [first, ...others] = exact as [Float32Array, ...Float32Array[]];
    for (const logits of others) assert.ok(difference(logits, first) < 1e-3, `${difference(logits, first)}`);
    assert.deepEqual(ours[0], ours[1]);
    // simd keeps zero * scale as f16: what it rounds off is seen here, where no scale was made for that.
    assert.ok(difference(ours[0]!, first) < 0.06, `${difference(ours[0]!, first)}`);
    // The zero points count: without them it is another model.
    await using model = await layoutModel(item);
    await using plain = await createSimdBackend({ modelDir: model.path, config: model.config, activations: "f32" });
    const [row] = await plain.forward([{ tokenIds: prompt, logits: "all" }]);
    assert.ok(difference(row!.logits, first) > 1);
  });
}
