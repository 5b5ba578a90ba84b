import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { InferenceThread, type LoadProgress } from "../inference_thread.ts";
import type { RestartOptions } from "../restart_policy.ts";
import { ThreadBackend } from "../thread_backend.ts";
import type { LoadOptions } from "./inference_worker.ts";
import { HEAP_BYTES } from "./kernels.ts";
import { startPoolThreads } from "./thread_pool.ts";
import { type ActivationType, BLOCK_TOKENS, type KvType } from "./wasm_engine.ts";

/** Options of {@linkcode createSimdBackend}. */
export interface SimdOptions {
  /** The model folder. */
  modelDir: string;
  config: ModelConfig;
  /** Threads that share a pass. @default one */
  threads?: number;
  /** How keys and values are kept; int8 has a scale for each token and head. @default "f32" */
  kv?: KvType;
  /**
   * What matrix products take: activations rounded to int8, or as they are. f32 is for comparing and looking inside: as
   * exact as `ort-wasm`, and several times slower.
   * @default "int8"
   */
  activations?: ActivationType;
  /** Memory that the engine may take, in bytes. @default what a WASM memory can have */
  memoryBudgetBytes?: number;
  /**
   * What the engine's heap can grow to, in bytes: weights, KV and the numbers of a pass. KV that does not fit any more
   * is refused with an {@linkcode OutOfMemoryError}; everything else goes on.
   * @default 4 GiB, what a WASM memory can have
   */
  maxHeapBytes?: number;
  /** Why this backend was chosen, for people. @default "it was asked for" */
  reason?: string;
  /** How an inference thread that died is replaced. */
  restarts?: RestartOptions;
  onProgress?: LoadProgress;
  /** Called when the inference thread died, before it is replaced. */
  onCrash?: (error: Error) => void;
}

/**
 * Loads a model into our own WASM engine, on a thread of its own.
 * @throws {ModelFileError} when the model's files are damaged or of another kind
 * @throws {OutOfMemoryError} before loading, when the weights do not fit
 * @throws {BackendUnavailableError} when no build of the engine gives right numbers on this runtime
 */
export async function createSimdBackend(
  {
    modelDir,
    config,
    threads = 1,
    kv = "f32",
    activations = "int8",
    memoryBudgetBytes = HEAP_BYTES,
    maxHeapBytes = HEAP_BYTES,
    reason,
    restarts,
    onProgress,
    onCrash,
  }: SimdOptions,
): Promise<Backend> {
  const memory = { memoryBudgetBytes, maxHeapBytes: Math.min(maxHeapBytes, HEAP_BYTES) };
  const load: LoadOptions = { modelDir, config, threads, kv, activations, ...memory };
  const entry = new URL("../simd/inference_worker.ts", import.meta.url);
  return await ThreadBackend.start({
    config,
    start: () => InferenceThread.start(entry, load, { onProgress, helpers: startPoolThreads(threads) }),
    info: ({ kind, detail, heapBytes, kvRoomBytes, threads }): BackendInfo => ({
      name: "simd",
      threads,
      // The builds differ in speed only: integers are exact in all, and f32 goes in one order.
      variant: `simd-3/${activations === "int8" ? "a8" : "a32"}/kv-${kv}`,
      rowInvariant: true,
      kvShares: true,
      kvRoomBytes,
      inspects: true,
      reason: reason ?? "it was asked for",
      detail: `our engine, ${kind}, ${activations} activations, weights packed in ${
        Math.round(heapBytes / 2 ** 20)
      } MiB, ${detail}`,
    }),
    kvBytes: (tokens) => Math.ceil(tokens / BLOCK_TOKENS) * BLOCK_TOKENS * bytesPerToken(config, kv),
    restarts,
    onCrash,
  });
}

/** As `KvShape` in `wasm/src/kv.rs`: int8 has an f32 scale for each head. */
function bytesPerToken(config: ModelConfig, kv: KvType): number {
  if (kv === "f32") return kvBytesPerToken(config);
  return 2 * config.numHiddenLayers * config.numKeyValueHeads * (config.headDim + 4);
}
