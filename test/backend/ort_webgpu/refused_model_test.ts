import assert from "node:assert/strict";
import { rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { createOrtWebgpuBackend } from "../../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { onnxFile } from "../../../src/model/onnx_file.ts";
import { encodeModel } from "../../../src/model/onnx_proto.ts";
import { readOnnx } from "../../../src/model/read_onnx.ts";
import { noGpu, tinyPhi3 } from "./gpu.ts";

test("a graph that is none of ours is refused by name, before a weight is read", { skip: noGpu }, async () => {
  await using folder = await tinyPhi3();
  const { path, config } = folder.model;
  const onnxPath = onnxFile(path);
  const model = readOnnx(onnxPath);
  model.graph.node.find(({ opType }) => opType === "Sigmoid")!.opType = "Tanh";
  await writeFile(onnxPath, encodeModel(model));
  await rm(`${onnxPath}.data`);
  await assert.rejects(createOrtWebgpuBackend({ modelDir: path, config }), {
    name: "ModelFileError",
    message: /node \/model\/layers\.0\/mlp\/\S+ is Tanh, wanted Sigmoid for layer 0's gate$/,
  });
});
