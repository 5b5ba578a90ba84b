import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { DiskStore, MemoryStore } from "../../models/file_store.ts";
import { PHI3_SHAPES } from "../../models/phi3_shape.ts";
import { writeSyntheticGguf, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createOrtWasmBackend } from "../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { createEngine } from "../../src/engine/create_engine.ts";
import { readModelFolder, stopTokenIds } from "../../src/model/model_folder.ts";
import { printModuleTree } from "../../src/model/module_tree.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { collect } from "../fakes/fake_engine.ts";

const shape = PHI3_SHAPES.tiny;
const layouts = ["genai", "hub", "web"] as const;
const root = mkdtempSync(join(tmpdir(), "hearth-synthetic-"));
after(() => rmSync(root, { recursive: true }));
const folders = Object.fromEntries(layouts.map((layout) => [layout, join(root, layout)]));
for (const layout of layouts) {
  using store = new DiskStore(folders[layout]!);
  writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, layout);
}

function bytesOf(write: (store: MemoryStore) => void): Map<string, Uint8Array> {
  const store = new MemoryStore();
  write(store);
  return store.files();
}

describe("a synthetic model", () => {
  test("is the same bytes for the same seed, and others for another", () => {
    const onnx = (seed: number) => bytesOf((store) => writeSyntheticOnnx(store, { size: "tiny", seed }, "genai"));
    const gguf = (seed: number) => bytesOf((store) => writeSyntheticGguf(store, { size: "tiny", seed }));
    for (const write of [onnx, gguf]) {
      assert.deepEqual(write(1), write(1));
      const [one, two] = [write(1), write(2)];
      assert.deepEqual([...one.keys()], [...two.keys()]);
      assert.ok([...one].some(([name, bytes]) => Buffer.compare(bytes, two.get(name)!) !== 0));
    }
  });

  test("has Phi-3's logits on simd as on onnxruntime, before its window ends and after", async () => {
    const ids = Array.from({ length: 400 }, (_, i) => (i * 7919 + 13) % shape.baseVocabSize);
    assert.ok(ids.length > shape.slidingWindow + 100);
    for (const layout of layouts) {
      const model = await readModelFolder(folders[layout]!);
      const options = { modelDir: model.path, config: model.config };
      await using reference = await createOrtWasmBackend({ ...options, threads: 1, memoryBudgetBytes: 2 ** 31 });
      await using simd = await createSimdBackend(options);
      const [want] = await reference.forward([{ tokenIds: ids, logits: "all" }]);
      const [got] = await simd.forward([{ tokenIds: ids, logits: "all" }]);
      const rows = ids.map((_, i) =>
        [want!, got!].map(({ logits }) => logits.subarray(i * shape.vocabSize, (i + 1) * shape.vocabSize))
      );
      const spread = want!.logits.reduce((max, logit) => Math.max(max, Math.abs(logit)), 0);
      // Activations rounded to int8; a window of one token more or less is wrong by 0.1 and more.
      rows.forEach(([w, g], position) => {
        const error = w!.reduce((max, logit, i) => Math.max(max, Math.abs(logit - g![i]!)), 0);
        assert.ok(error < 0.04 * spread, `${layout}, position ${position}: ${error} of ${spread}`);
      });
      const same = rows.filter(([w, g]) => argmax(w!) === argmax(g!)).length;
      assert.ok(same > 0.93 * ids.length, `${same} of ${ids.length}`);
    }
  });

  test("answers in varied tokens, with the tokenizer and template of Phi-3", async () => {
    await using engine = await createEngine({ model: folders.genai, backend: "simd" });
    const messages = [{ role: "user", content: "What is the capital of this country?" }];
    const prompt = await engine.chatTemplate.encode(messages);
    assert.match(
      engine.tokenizer.decode(prompt, { skipSpecialTokens: false }),
      /<\|user\|>[^]*country[^]*<\|assistant\|>/,
    );
    const { ids } = await collect(engine.generate({ prompt: { messages }, maxTokens: 60, ignoreEos: true }));
    assert.ok(new Set(ids).size > 30, `${new Set(ids).size} different tokens of ${ids.length}`);
  });

  test("stops at the three tokens of Phi-3, without a generation_config.json too", async () => {
    const folder = join(root, "without");
    cpSync(folders.genai!, folder, { recursive: true });
    rmSync(join(folder, "generation_config.json"));
    for (const path of [folders.genai!, folder]) {
      const base = shape.baseVocabSize;
      assert.deepEqual([...stopTokenIds(await readModelFolder(path), undefined)], [base, base + 1, base + 7]);
    }
  });

  test("shows its parts by the names of its graph", async () => {
    const treeOf = async (layout: string) => {
      const { path, config } = await readModelFolder(folders[layout]!);
      return printModuleTree(path, config);
    };
    assert.match(await treeOf("genai"), /qkv_proj[^]*gate_proj[^]*up_proj[^]*lm_head/);
    const web = await treeOf("web");
    assert.match(web, /q_rotary\): RotaryEmbedding[^]*MultiHeadAttention\(heads=2\)[^]*gate_proj[^]*lm_head/);
    assert.doesNotMatch(web, /mask|Expand|Where/);
  });
});
