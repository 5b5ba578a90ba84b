import assert from "node:assert/strict";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { test } from "node:test";
import { Tokenizer } from "@huggingface/tokenizers";
import { sha256 } from "../../models/manifest.ts";
import { DataLocation, DataType, decodeModel, type OnnxTensor } from "../../src/model/onnx_proto.ts";

const folder = new URL("../../models/smollm2-135m-instruct/", import.meta.url);
const model = decodeModel(readFileSync(new URL("onnx/model_q4.onnx", folder)));

const ELEMENT_BYTES: Record<number, number> = { [DataType.FLOAT]: 4, [DataType.UINT8]: 1, [DataType.INT64]: 8 };

interface Range {
  location: string;
  offset: number;
  length: number;
}

function externalRange(tensor: OnnxTensor): Range {
  const value = (key: string) => tensor.externalData?.find((entry) => entry.key === key)?.value ?? "";
  return { location: value("location"), offset: Number(value("offset")), length: Number(value("length")) };
}

function readJson(path: string) {
  return JSON.parse(readFileSync(new URL(path, folder), "utf8"));
}

test("manifest.json has the size and sha256 of each file in the folder", () => {
  const manifest: { files: { path: string; size: number; sha256: string }[] } = readJson("manifest.json");
  const listed = manifest.files.map((file) => file.path);
  const present = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path !== "manifest.json" && statSync(new URL(path, folder)).isFile());
  assert.deepEqual(listed, present.sort());
  for (const { path, size, sha256: hash } of manifest.files) {
    const bytes = readFileSync(new URL(path, folder));
    assert.equal(bytes.length, size, path);
    assert.equal(sha256(bytes), hash, path);
  }
});

test("model_q4.onnx keeps each initializer within its file, with the bytes that its shape takes", () => {
  for (const tensor of model.graph.initializer) {
    const bytes = tensor.dims.reduce((product, dim) => product * dim, 1) * ELEMENT_BYTES[tensor.dataType]!;
    if (tensor.dataLocation !== DataLocation.EXTERNAL) {
      assert.equal(tensor.rawData?.length, bytes, tensor.name);
      continue;
    }
    const { location, offset, length } = externalRange(tensor);
    assert.equal(length, bytes, tensor.name);
    assert.ok(offset + length <= statSync(new URL(`onnx/${location}`, folder)).size, tensor.name);
    assert.equal(offset % (length >= 65_536 ? 4096 : 64), 0, tensor.name);
  }
});

test("model_q4.onnx has no two initializers over the same bytes, but for the tied embedding", () => {
  const ranges = model.graph.initializer
    .filter((tensor) => tensor.dataLocation === DataLocation.EXTERNAL && !tensor.name.startsWith("lm_head."))
    .map(externalRange)
    .sort((a, b) => a.location.localeCompare(b.location) || a.offset - b.offset);
  for (let i = 1; i < ranges.length; i++) {
    const [before, range] = [ranges[i - 1]!, ranges[i]!];
    assert.ok(range.location !== before.location || before.offset + before.length <= range.offset);
  }
  const find = (name: string) => model.graph.initializer.find((tensor) => tensor.name === name)!;
  for (const part of ["qweight", "scales"]) {
    const [head, embedding] = [
      find(`lm_head.MatMulNBits.${part}`),
      find(`model.embed_tokens.GatherBlockQuantized.${part}`),
    ];
    assert.deepEqual(externalRange(head), externalRange(embedding));
  }
});

test("tokenizer.json splits digits, keeps special tokens whole and gives text back", () => {
  const tokenizer = new Tokenizer(readJson("tokenizer.json"), readJson("tokenizer_config.json"));
  // Ids as the Rust `tokenizers` 0.23.3 and llama.cpp on the source GGUF give them.
  const text = "The capital of France is Paris. 2024<|im_end|>";
  const ids = [504, 3575, 282, 4649, 314, 7042, 30, 216, 34, 32, 34, 36, 2];
  assert.deepEqual(tokenizer.encode(text).ids, ids);
  assert.equal(tokenizer.decode(ids), text);
});
