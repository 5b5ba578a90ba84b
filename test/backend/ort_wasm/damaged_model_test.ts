import assert from "node:assert/strict";
import { readFile, rename, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { createOrtWasmBackend } from "../../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { decodeModel, encodeModel, type OnnxModel } from "../../../src/model/onnx_proto.ts";
import { tinyModel } from "../tiny_model.ts";

/** Damages a good model, then expects loading to fail with `error`. */
async function loadingFails(
  damage: (onnxPath: string, folder: string) => Promise<void>,
  error: object,
  memoryBudgetBytes = 2 ** 31,
): Promise<void> {
  await using model = await tinyModel();
  await damage(model.onnxPath, join(model.path, "onnx"));
  await assert.rejects(
    createOrtWasmBackend({ modelDir: model.path, config: model.config, threads: 1, memoryBudgetBytes }),
    error,
  );
}

const edit = (change: (model: OnnxModel) => void) => async (onnxPath: string) => {
  const model = decodeModel(await readFile(onnxPath));
  change(model);
  await writeFile(onnxPath, encodeModel(model));
};

const external = (model: OnnxModel) => model.graph.initializer.find((tensor) => tensor.dataLocation === 1)!;
const set = (key: string, value: string) =>
  edit((model) => external(model).externalData!.find((entry) => entry.key === key)!.value = value);

test("weights that cannot fit are refused before loading, with the figures", async () => {
  await loadingFails(async () => {}, {
    name: "OutOfMemoryError",
    message:
      /as f32 its weights are .* GiB while loading; KV takes \d+ KiB a token, .* 4\.0 GiB and 0\.0 GiB may be used/,
  }, 1000);
});

test("a graph that is missing or no ONNX file is refused", async () => {
  await loadingFails((path) => rename(path, `${path}.gone`), {
    name: "ModelFileError",
    message: /Cannot read the graph/,
  });
  await loadingFails((path) => writeFile(path, "not a model"), { name: "ModelFileError" });
});

test("weights that end too early are refused", async () => {
  await loadingFails((_, folder) => truncate(join(folder, "model_q4.onnx_data"), 5000), {
    name: "ModelFileError",
    message: /it has 5000 bytes, wanted/,
  });
});

test("a path that leads out of the model folder is refused", async () => {
  for (const location of ["../../secret", "/etc/passwd", ".", "a/../../b"]) {
    await loadingFails(set("location", location), { name: "ModelFileError", message: /outside the model folder/ });
  }
});

test("a link that leads out of the model folder is refused", async () => {
  await loadingFails(async (_, folder) => {
    const data = join(folder, "model_q4.onnx_data");
    await rename(data, join(folder, "..", "weights"));
    await symlink(join(folder, "..", "weights"), data);
  }, { name: "ModelFileError", message: /it is a link out of the model folder/ });
});

test("lengths and offsets that do not fit are refused", async () => {
  await loadingFails(set("length", "7"), { name: "ModelFileError", message: /offset .* and length 7, wanted/ });
  await loadingFails(set("offset", "-64"), { name: "ModelFileError" });
  await loadingFails(set("offset", "999999999"), { name: "ModelFileError" });
});

test("a graph without the head or attributes it needs is refused by name", async () => {
  const head = (model: OnnxModel) => model.graph.node.find(({ output }) => output.includes("logits"))!;
  await loadingFails(edit((model) => head(model).opType = "Gemm"), {
    name: "ModelFileError",
    message: /node \/lm_head\/MatMulNBits is com\.microsoft\.Gemm, wanted MatMulNBits or Cast for logits/,
  });
  await loadingFails(
    edit((model) => {
      const node = head(model);
      node.attribute = node.attribute.filter(({ name }) => name !== "K");
    }),
    { name: "ModelFileError", message: /has no attribute K/ },
  );
});

test("with memory for int4 only, the file's int4 weights are used, and the detail says why", async () => {
  await using model = await tinyModel();
  // Loading overhead plus twice the file's weights and a matrix expanded, not plus three times the expanded ones.
  const memoryBudgetBytes = 160 * 2 ** 20 + 250_000;
  await using backend = await createOrtWasmBackend({
    modelDir: model.path,
    config: model.config,
    threads: 1,
    memoryBudgetBytes,
  });
  assert.match(backend.info.detail, /the file's int4 weights, f32 would take 0\.2 GiB of 0\.2 GiB/);
});
