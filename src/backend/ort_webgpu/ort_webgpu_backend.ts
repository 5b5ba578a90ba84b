import type { ModelConfig } from "../../model/model_config.ts";
import { hashWeights } from "../../model/model_folder.ts";
import type { FloatType } from "../../model/onnx_file.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { InferenceThread, type LoadProgress } from "../inference_thread.ts";
import { ONNXRUNTIME_WEB } from "../ort/version.ts";
import type { RestartOptions } from "../restart_policy.ts";
import { ThreadBackend } from "../thread_backend.ts";
import { leaveOutOpenGl } from "./deno_backends.ts";
import { gpuKvCapacity, gpuKvTokenBytes } from "./gpu_kv.ts";
import { PASS_TOKENS } from "./pass_tokens.ts";
import type { LoadOptions, UnsafeOptions } from "./inference_worker.ts";

/** Options of {@linkcode createOrtWebgpuBackend}. */
export interface OrtWebgpuOptions {
  /** The model folder. */
  modelDir: string;
  config: ModelConfig;
  /** How weights, activations and KV are held. @default "auto": f16 where shaders have it */
  precision?: LoadOptions["precision"];
  /**
   * `"int8"` lets products round their activations where the file allows it and the GPU has subgroups, as Dawn says and
   * wgpu does not: prefill is 1.7 times as fast. Beside f16 that costs nothing more (Phi-3-mini on an H200: 1 of 80 greedy
   * ids unlike exact arithmetic's, 3 without); in f32 tokens are then not those of other backends (7 of 80, 0 without).
   * @default "auto": `"int8"` with f16, else `"f32"`
   */
  activations?: LoadOptions["activations"];
  /** Replay captured steps of decode, which needs more of onnxruntime-web than it documents. @default true */
  capture?: boolean;
  /** Steps of decode that may be on their way at a time beside the one that is asked for. @default 4 */
  ahead?: number;
  /** Also use an adapter that computes on the CPU, as Mesa's llvmpipe. @default true */
  software?: boolean;
  /** How the device is opened anew, and the model loaded, when it was lost; `false`: not at all. */
  restarts?: RestartOptions | false;
  /** For tests: the device is lost in the pass after so many. @default never */
  loseAfter?: number;
  /** @default nothing of it */
  unsafe?: Partial<UnsafeOptions>;
  /** Why this backend was chosen, for people. @default "it was asked for" */
  reason?: string;
  onProgress?: LoadProgress;
  /** Called when the inference thread died, before it is replaced. */
  onCrash?: (error: Error) => void;
}

/**
 * Loads a model into onnxruntime-web on the GPU, driven by a thread of its own.
 * @throws {ModelFileError} when the model's files are damaged or of another kind
 * @throws {BackendUnavailableError} when there is no GPU
 * @throws {OutOfMemoryError} when the GPU has no room for the weights
 */
export async function createOrtWebgpuBackend(options: OrtWebgpuOptions): Promise<Backend> {
  const {
    modelDir,
    config,
    precision = "auto",
    activations = "auto",
    capture = true,
    ahead = 4,
    software = true,
    unsafe,
    loseAfter,
  } = options;
  const load: LoadOptions = {
    modelDir,
    config,
    precision,
    activations,
    capture,
    ahead,
    software,
    loseAfter,
    unsafe: { read: false, unvalidated: false, ...unsafe },
  };
  leaveOutOpenGl();
  const weights = { f16: await hashWeights(modelDir, "f16"), f32: await hashWeights(modelDir, "f32") };
  const entry = new URL("../ort_webgpu/inference_worker.ts", import.meta.url);
  return await ThreadBackend.start({
    config,
    start: () => InferenceThread.start(entry, load, options),
    info: ({ kind, detail, device, threads }): BackendInfo => ({
      name: "ort-webgpu",
      device,
      threads,
      // Another GPU adds in another order, and f16 may have other weights than the model's hash is of.
      variant: `ort-webgpu-${ONNXRUNTIME_WEB}/${kind}/${activations}/${device}/${
        weights[kind as FloatType].slice(0, 16)
      }`,
      rowInvariant: false,
      kvShares: false,
      inspects: false,
      prefillTokens: PASS_TOKENS,
      stepsAhead: ahead,
      reason: options.reason ?? "it was asked for",
      detail: `onnxruntime-web ${ONNXRUNTIME_WEB} on ${device}, ${kind}, ${detail}`,
    }),
    kvBytes: (tokens, { kind }) =>
      gpuKvCapacity(tokens, config.contextLength) * gpuKvTokenBytes({ config, half: kind === "f16" }),
    restarts: options.restarts,
    onCrash: options.onCrash,
  });
}
