import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, test } from "node:test";
import { ModelFileError } from "../../src/errors.ts";
import { DataLocation, DataType, type OnnxTensor } from "../../src/model/onnx_proto.ts";
import { TensorFiles } from "../../src/model/tensor_bytes.ts";

const root = realpathSync(mkdtempSync(join(tmpdir(), "hearth-links-")));
after(() => rmSync(root, { recursive: true }));

/** Reads four bytes of external data `w` beside a graph, which is a link to `target`. */
function readLinked(folder: string, target: string): number[] {
  const at = join(root, folder, "w");
  for (const path of [at, join(root, target)]) mkdirSync(dirname(path), { recursive: true });
  writeFileSync(join(root, target), Uint8Array.of(1, 2, 3, 4));
  symlinkSync(join(root, target), at);
  using files = new TensorFiles(join(root, folder, "model.onnx"));
  const externalData = [{ key: "location", value: "w" }];
  const tensor = { name: "w", dims: [4], dataType: DataType.UINT8, dataLocation: DataLocation.EXTERNAL, externalData };
  const bytes = new Uint8Array(4);
  files.bytesOf(tensor as OnnxTensor).read(0, bytes);
  return [...bytes];
}

test("weights of a hub's snapshot are links to its own blobs", () => {
  const snapshot = `models--a--b/snapshots/${"1".repeat(40)}/onnx`;
  assert.deepEqual(readLinked(snapshot, "models--a--b/blobs/x"), [1, 2, 3, 4]);
});

test("no link leads elsewhere", () => {
  const snapshot = `models--c--d/snapshots/${"1".repeat(40)}`;
  assert.throws(() => readLinked(`${snapshot}/onnx`, "models--a--b/blobs/y"), ModelFileError);
  assert.throws(() => readLinked(`${snapshot}/cpu`, "secret"), /it is a link out of the model folder/);
  assert.throws(() => readLinked("models--e--f/snapshots/main", "models--e--f/blobs/z"), ModelFileError);
  assert.throws(() => readLinked("plain", "blobs/z"), ModelFileError);
});

test("what is no file is refused, and not waited for", () => {
  const folder = join(root, "odd");
  mkdirSync(join(folder, "w"), { recursive: true });
  execFileSync("mkfifo", [join(folder, "pipe")]);
  using files = new TensorFiles(join(folder, "model.onnx"));
  for (const value of ["w", "pipe"]) {
    const externalData = [{ key: "location", value }];
    const tensor = {
      name: "w",
      dims: [4],
      dataType: DataType.UINT8,
      dataLocation: DataLocation.EXTERNAL,
      externalData,
    };
    assert.throws(
      () => files.bytesOf(tensor as OnnxTensor),
      /^ModelFileError: Cannot read weights from .* is no file$/,
    );
  }
});
