import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { basename, dirname, insideFolder, join } from "../../src/runtime/browser/urls.ts";

const FOLDER = "https://page.example/models/phi";

test("join() takes what is no way up for a name", () => {
  assert.equal(join(FOLDER, "onnx", "model.onnx_data"), `${FOLDER}/onnx/model.onnx_data`);
  assert.equal(join(FOLDER, "onnx/a b#1?.onnx"), `${FOLDER}/onnx/a%20b%231%3F.onnx`);
  assert.equal(join(FOLDER, "%2e%2e/x"), `${FOLDER}/%252e%252e/x`);
  assert.equal(join(FOLDER, "https://other.example/x"), `${FOLDER}/https%3A//other.example/x`);
  assert.equal(join(FOLDER, "..\\..\\x"), `${FOLDER}/..%5C..%5Cx`);
});

test("insideFolder() sees a way out of the folder", () => {
  for (const name of ["../x", "a/../../x", "..", ".", "a/..", "../phi-3/x", "../phi"]) {
    assert.equal(insideFolder(FOLDER, join(FOLDER, name)), false, name);
  }
  for (const name of ["x", "a/../x", "a/b", "...", ".x"]) assert.ok(insideFolder(FOLDER, join(FOLDER, name)), name);
});

test("no name leads to another origin, and basename() gives a file's name back", () => {
  fc.assert(fc.property(fc.string({ unit: "grapheme" }), (name) => {
    const url = join(FOLDER, name);
    assert.equal(new URL(url).origin, "https://page.example");
    if (name === "" || name.includes("/") || name === "." || name === "..") return;
    assert.equal(basename(url), name);
    assert.equal(dirname(url), FOLDER);
  }));
});
