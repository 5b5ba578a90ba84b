/**
 * A tiny synthetic Phi-3 here and its GGUF twin in llama.cpp: the same weights, so the same likeliest tokens as far as
 * both round activations to 8 bits, each in its way. Ends in one line, `N passed, N failed`.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ControlledEvaluateInputItem, getLlama, LlamaLogLevel } from "node-llama-cpp";
import { DiskStore } from "../../models/file_store.ts";
import { PHI3_SHAPES } from "../../models/phi3_shape.ts";
import { syntheticGgufPath, writeSyntheticGguf, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { Report } from "./report.ts";

const { slidingWindow, baseVocabSize, vocabSize } = PHI3_SHAPES.tiny;
const MIN_SAME_ARGMAX = 0.9;

const report = new Report();
await report.attempt("llama.cpp", async () => {
  const folder = mkdtempSync(join(tmpdir(), "hearth-twin-"));
  try {
    using store = new DiskStore(folder);
    writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "genai");
    writeSyntheticGguf(store, { size: "tiny", seed: 1 });
    const { path, config } = await readModelFolder(folder);
    await using backend = await createSimdBackend({ modelDir: path, config });
    // llama.cpp sees all tokens, Phi-3 those in its window.
    const ids = Array.from({ length: slidingWindow }, (_, i) => (i * 7919 + 13) % baseVocabSize);
    const [ours] = await backend.forward([{ tokenIds: ids, logits: "all" }]);

    await using llama = await getLlama({ build: "never", gpu: false, logLevel: LlamaLogLevel.error });
    await using model = await llama.loadModel({ modelPath: join(folder, syntheticGgufPath("tiny")) });
    await using context = await model.createContext({ contextSize: 512, threads: 1 });
    const input = ids.map((id) => [id, { generateNext: { logits: true } }] as ControlledEvaluateInputItem);
    const theirs = await context.getSequence().controlledEvaluate(input);

    let same = 0;
    let error = 0;
    for (const [position, output] of theirs.entries()) {
      const row = ours!.logits.subarray(position * vocabSize, (position + 1) * vocabSize);
      const logits = [...output!.next.logits!].sort(([a], [b]) => a - b).map(([, logit]) => logit);
      same += Number(argmax(Float32Array.from(logits)) === argmax(row));
      error += logits.reduce((sum, logit, id) => sum + (logit - row[id]!) ** 2, 0) / logits.length / ids.length;
    }
    const figures = `the same likeliest token at ${same} of ${ids.length} positions, ` +
      `root mean square difference of logits ${Math.sqrt(error).toFixed(3)}`;
    report.check("synthetic Phi-3 and its GGUF twin", same >= MIN_SAME_ARGMAX * ids.length, figures);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
report.end();
