import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, test } from "node:test";
import { onnxFile } from "../../src/model/onnx_file.ts";

describe("onnxFile()", () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "hearth-onnx-file-"));
    mkdirSync(join(folder, "onnx"));
  });
  afterEach(() => rmSync(folder, { recursive: true }));
  const add = (name: string, content = "") => {
    writeFileSync(join(folder, name), content);
    return join(folder, name);
  };

  test("takes of two graphs the one in the floats that are wanted, and what there is of one", () => {
    const half = add("onnx/model_q4f16.onnx");
    for (const floats of ["f32", "f16"] as const) assert.equal(onnxFile(folder, floats), half);
    const full = add("onnx/model_q4.onnx");
    assert.equal(onnxFile(folder), full);
    assert.equal(onnxFile(folder, "f32"), full);
    assert.equal(onnxFile(folder, "f16"), half);
  });

  test("takes what genai_config.json names, inside the folder only", () => {
    const error = { name: "ModelFileError" };
    assert.throws(() => onnxFile(folder), {
      ...error,
      message: /wanted \S+q4.onnx or \S+q4f16.onnx or genai_config.json/,
    });
    const config = (filename: unknown) =>
      add("genai_config.json", JSON.stringify({ model: { decoder: { filename } } }));
    config("a.onnx");
    assert.equal(onnxFile(folder, "f16"), join(folder, "a.onnx"));
    config("../a.onnx");
    assert.throws(() => onnxFile(folder), { ...error, message: /outside the model folder/ });
    config(7);
    assert.throws(() => onnxFile(folder), error);
  });
});
