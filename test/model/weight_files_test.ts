import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { DiskStore } from "../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { hashModel } from "../../src/model/model_hash.ts";
import { onnxFile } from "../../src/model/onnx_file.ts";
import { usualFiles, weightFiles } from "../../src/model/weight_files.ts";

describe("usualFiles()", () => {
  test("finds by name what listing a folder finds", async () => {
    const path = await resolveModelPath();
    const listed = await weightFiles(path, {});
    assert.equal(listed.length, 4);
    assert.deepEqual((await usualFiles(path, {})).sort(), listed.sort());
  });

  test("takes one graph, so that a second one which is fetched later makes no other model", async () => {
    const path = await mkdtemp(join(tmpdir(), "hearth-weights-"));
    try {
      await mkdir(join(path, "onnx"));
      const write = async (...names: string[]) => {
        for (const name of names) await writeFile(join(path, "onnx", name), name);
      };
      const found = async () => {
        const listed = (await weightFiles(path, {})).sort();
        assert.deepEqual((await usualFiles(path, {})).sort(), listed);
        return listed;
      };
      await write("model_q4f16.onnx", "model_q4f16.onnx_data", "model_q4f16.onnx_data_1");
      assert.equal((await found()).length, 3);
      await write("model_q4.onnx", "model_q4.onnx.data", "model_q4.onnx_data");
      const taken = ["model_q4.onnx", "model_q4.onnx.data", "model_q4.onnx_data"].map((name) => `onnx/${name}`);
      assert.deepEqual(await found(), taken);
      await write("model.onnx", "model.onnx_data", "model_fp16.onnx");
      assert.deepEqual(await found(), taken);
      const half = ["model_q4f16.onnx", "model_q4f16.onnx_data", "model_q4f16.onnx_data_1"];
      assert.deepEqual((await weightFiles(path, {}, "f16")).sort(), half.map((name) => `onnx/${name}`));
      assert.deepEqual((await usualFiles(path, {}, "f16")).sort(), half.map((name) => `onnx/${name}`));
    } finally {
      await rm(path, { recursive: true, force: true });
    }
  });

  test("follows no links to folders, and takes no folder for a file", async () => {
    const path = await mkdtemp(join(tmpdir(), "hearth-weights-"));
    try {
      await mkdir(join(path, "onnx", "model_q4.onnx"), { recursive: true });
      await mkdir(join(path, "some.data"));
      await writeFile(join(path, "onnx", "model_q4f16.onnx"), "graph");
      // Followed, they would be 2^40 folders, of which each has the graph.
      for (const name of ["again", "circle"]) await symlink(".", join(path, name));
      await symlink("onnx", join(path, "linked.data"));
      const names = await weightFiles(path, {});
      assert.deepEqual(names.sort(), ["linked.data", "onnx/model_q4f16.onnx"]);
      assert.deepEqual(await usualFiles(path, {}), ["onnx/model_q4f16.onnx"]);
      assert.equal(onnxFile(path), join(path, "onnx/model_q4f16.onnx"));
      assert.match(await hashModel(path, "", names), /^[0-9a-f]{64}$/);
      await rename(join(path, "onnx"), join(path, "elsewhere"));
      await symlink("elsewhere", join(path, "onnx"));
      assert.deepEqual((await weightFiles(path, {})).sort(), names, "but takes the graph behind one");
    } finally {
      await rm(path, { recursive: true, force: true });
    }
  });

  test("finds the graph that genai_config.json names, and none outside the folder", async () => {
    const path = await mkdtemp(join(tmpdir(), "hearth-weights-"));
    try {
      {
        using store = new DiskStore(path);
        writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "genai");
      }
      const names = (filename: string) => usualFiles(path, { model: { decoder: { filename } } });
      await writeFile(`${path}.onnx`, "");
      assert.deepEqual(await names(`../${path.split("/").at(-1)}.onnx`), []);
      const genaiConfig = JSON.parse(await readFile(join(path, "genai_config.json"), "utf8"));
      const listed = await weightFiles(path, genaiConfig);
      assert.ok(listed.length > 1);
      assert.deepEqual((await usualFiles(path, genaiConfig)).sort(), listed.sort());
    } finally {
      await rm(path, { recursive: true, force: true });
      await rm(`${path}.onnx`, { force: true });
    }
  });
});
