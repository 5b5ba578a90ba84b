import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import type { DecoderWeights } from "../../../models/decoder_weights.ts";
import { buildDecoderGraph } from "../../../models/decoder_graph.ts";
import { ExternalDataWriter } from "../../../models/external_data.ts";
import { GENAI_STYLE, WEB_STYLE } from "../../../models/graph_style.ts";
import type { NBitsMatrix } from "../../../models/nbits_matrix.ts";
import { OnnxBuilder } from "../../../models/onnx_builder.ts";
import { phi3Config, phi3GenerationConfig } from "../../../models/phi3_configs.ts";
import { PHI3_SHAPES } from "../../../models/phi3_shape.ts";
import { createOrtWasmBackend } from "../../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { parseModelConfig } from "../../../src/model/model_config.ts";

const shape = PHI3_SHAPES["phi-3-mini"];
const roles = { bos_token_id: 1, eos_token_id: [32_000], pad_token_id: 32_000 };

/** Phi-3-mini's matrices without anything in them: each is a view of the same zeros. */
class Zeros implements DecoderWeights {
  readonly #bytes = new Uint8Array(64 * 2 ** 20);
  readonly #floats = new Float32Array(4 * 2 ** 20);

  #matrix(rows: number, columns: number): NBitsMatrix {
    const [qweight, scales] = [
      this.#bytes.subarray(0, rows * columns / 2),
      this.#floats.subarray(0, rows * columns / 32),
    ];
    return { bits: 4, rows, columns, qweight, scales, zeroPoints: undefined };
  }
  readonly #norm = () => this.#floats.subarray(0, shape.hiddenSize);
  embedding = () => {
    const piece = this.#floats.subarray(0, shape.hiddenSize);
    return {
      rows: shape.vocabSize,
      columns: shape.hiddenSize,
      *pieces() {
        for (let row = 0; row < shape.vocabSize; row++) yield piece;
      },
    };
  };
  head = () => this.#matrix(shape.vocabSize, shape.hiddenSize);
  qkv = () => this.#matrix(3 * shape.hiddenSize, shape.hiddenSize);
  attentionOutput = () => this.#matrix(shape.hiddenSize, shape.hiddenSize);
  gateUp = () => this.#matrix(2 * shape.intermediateSize, shape.hiddenSize);
  down = () => this.#matrix(shape.hiddenSize, shape.intermediateSize);
  attentionNorm = this.#norm;
  mlpNorm = this.#norm;
  finalNorm = this.#norm;
}

for (const style of [GENAI_STYLE, WEB_STYLE]) {
  test(`Phi-3-mini (${style.attention}) is refused before it is read, with the figures and what would fit`, async () => {
    const folder = mkdtempSync(join(tmpdir(), "hearth-full-"));
    try {
      // The graph alone: 2.7 GB of weights are nowhere.
      const data = new ExternalDataWriter({ write: () => {} }, () => "model.onnx.data", Infinity);
      const builder = new OnnxBuilder(data, style);
      buildDecoderGraph(builder, new Zeros(), shape);
      writeFileSync(join(folder, "model.onnx"), builder.encode());
      writeFileSync(
        join(folder, "genai_config.json"),
        JSON.stringify({ model: { decoder: { filename: "model.onnx" } } }),
      );
      const config = parseModelConfig({ ...phi3Config(shape, roles), ...phi3GenerationConfig(roles) });
      const steps: string[] = [];
      const load = (weights: "auto" | "int4") =>
        createOrtWasmBackend({
          modelDir: folder,
          config,
          threads: 2,
          memoryBudgetBytes: 2 ** 36,
          weights,
          onProgress: (step) => steps.push(step),
        });
      await assert.rejects(load("auto"), {
        name: "OutOfMemoryError",
        message: "Cannot load the model into onnxruntime-web: as f32 its weights are 14.2 GiB and take 28.6 GiB of " +
          "the heap, 42.9 GiB while loading; as int4 its weights are 2.5 GiB and take 3.1 GiB of the heap, 5.6 GiB " +
          "while loading; KV takes 768 KiB a token, 3.0 GiB for the context of 4096; a WASM heap ends at 4.0 GiB and " +
          '64.0 GiB may be used here. What would fit: 1284 tokens of context beside them, or the backend "simd", ' +
          "which keeps weights packed and has KV as int8",
      });
      await assert.rejects(load("int4"), {
        name: "OutOfMemoryError",
        message: /onnxruntime-web: as int4 its weights are 2\.5/,
      });
      assert.deepEqual(steps, []);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
