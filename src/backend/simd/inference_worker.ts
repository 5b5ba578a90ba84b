import { BackendUnavailableError } from "../../errors.ts";
import { workerData } from "../../host/threads.ts";
import { readDecoderGraph } from "../../model/decoder_graph.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { onnxFile } from "../../model/onnx_file.ts";
import { readOnnx } from "../../model/read_onnx.ts";
import { TensorFiles } from "../../model/tensor_bytes.ts";
import { serveThread } from "../serve_thread.ts";
import { findDecoderWeights } from "./decoder_weights.ts";
import { loadKernels } from "./kernels.ts";
import { packedBytes, stagingBytes } from "./load_weights.ts";
import { requireRoom } from "./require_room.ts";
import { SimdSession } from "./simd_session.ts";
import { ThreadPool } from "./thread_pool.ts";
import type { ActivationType, KvType } from "./wasm_engine.ts";

/** What the thread needs to load a model; handed over as `workerData`. */
export interface LoadOptions {
  /** The model folder. */
  modelDir: string;
  config: ModelConfig;
  threads: number;
  kv: KvType;
  activations: ActivationType;
  /** Memory that the engine may take, in bytes. */
  memoryBudgetBytes: number;
  /** What the engine's heap can grow to, in bytes. */
  maxHeapBytes: number;
}

await serveThread(async ({ onProgress, fail, helpers }) => {
  const { modelDir, config, threads, kv, activations, memoryBudgetBytes, maxHeapBytes } = workerData as LoadOptions;
  const onnxPath = onnxFile(modelDir);
  const graph = readDecoderGraph(readOnnx(onnxPath), config);
  using files = new TensorFiles(onnxPath);
  const weights = findDecoderWeights(graph, files, config);
  const kernels = await loadKernels(maxHeapBytes);
  if (!kernels) {
    throw new BackendUnavailableError("Cannot run the simd engine: no build of it gives right numbers here");
  }
  const weightBytes = packedBytes(kernels, weights);
  const needs = { weightBytes, stagingBytes: stagingBytes(weights), config, threads };
  const kvRoomBytes = requireRoom(needs, { budgetBytes: memoryBudgetBytes, maxHeapBytes });
  const pool = await ThreadPool.start(kernels, threads, helpers, fail);
  const session = new SimdSession(kernels, pool, config, weights, { kv, activations, kvRoomBytes }, onProgress);
  return { session, kind: kernels.variant, threads: pool.size };
});
