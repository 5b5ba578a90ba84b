import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { DiskStore } from "../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { usualFiles, weightFiles } from "../../src/model/weight_files.ts";

describe("usualFiles()", () => {
  test("finds by name what listing a folder finds", async () => {
    const path = await resolveModelPath();
    const listed = await weightFiles(path, {});
    assert.equal(listed.length, 4);
    assert.deepEqual((await usualFiles(path, {})).sort(), listed.sort());
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
      const listed = await weightFiles(path, {});
      const graph = listed.find((name) => name.endsWith(".onnx"))!;
      assert.ok(listed.length > 1);
      assert.deepEqual((await names(graph)).sort(), listed.sort());
    } finally {
      await rm(path, { recursive: true, force: true });
      await rm(`${path}.onnx`, { force: true });
    }
  });
});
