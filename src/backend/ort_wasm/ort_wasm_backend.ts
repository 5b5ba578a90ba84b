import { kvCapacity } from "../../kv/kv_capacity.ts";
import { readDecoderGraph } from "../../model/decoder_graph.ts";
import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import { onnxFile } from "../../model/onnx_file.ts";
import { readOnnx } from "../../model/read_onnx.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { InferenceThread, type LoadProgress } from "../inference_thread.ts";
import { ONNXRUNTIME_WEB } from "../ort/version.ts";
import { ThreadBackend } from "../thread_backend.ts";
import type { WeightForm } from "./graph_rewrite.ts";
import type { LoadOptions, SessionKind } from "./inference_worker.ts";
import { chooseWeights } from "./weight_form.ts";

/** Options of {@linkcode createOrtWasmBackend}. */
export interface OrtWasmOptions {
  /** The model folder. */
  modelDir: string;
  config: ModelConfig;
  threads: number;
  /** Memory that loading may take, in bytes. */
  memoryBudgetBytes: number;
  /** How to hold weights; `"auto"` takes f32 where the budget allows. @default "auto" */
  weights?: WeightForm | "auto";
  /** Why this backend was chosen, for people. @default "it was asked for" */
  reason?: string;
  /** How to keep KV; `"auto"` takes the heap where this onnxruntime-web allows. @default "auto" */
  session?: SessionKind | "auto";
  onProgress?: LoadProgress;
  /** Called when the inference thread died, before it is replaced. */
  onCrash?: (error: Error) => void;
}

/**
 * Loads a model into onnxruntime-web on a thread of its own.
 * @throws {ModelFileError} when the model's files are damaged or of another kind
 * @throws {OutOfMemoryError} before loading, when the weights fit in no form
 */
export async function createOrtWasmBackend(options: OrtWasmOptions): Promise<Backend> {
  const { modelDir, config, threads } = options;
  const onnxPath = onnxFile(modelDir);
  const decoder = readDecoderGraph(readOnnx(onnxPath), config);
  const { form, detail } = chooseWeights(decoder, config, options.weights ?? "auto", options.memoryBudgetBytes);
  const load: LoadOptions = { onnxPath, config, threads, weights: form, session: options.session ?? "auto" };
  const entry = new URL("./inference_worker.ts", import.meta.url);
  return await ThreadBackend.start({
    config,
    start: () => InferenceThread.start(entry, load, options),
    info: (started): BackendInfo => ({
      name: "ort-wasm",
      threads,
      // Heap and API sessions run the same kernels on the same numbers.
      variant: `ort-wasm-${ONNXRUNTIME_WEB}/${form}`,
      // Its matmuls add in another order when there are more rows.
      rowInvariant: false,
      kvShares: false,
      inspects: false,
      reason: options.reason ?? "it was asked for",
      detail: `onnxruntime-web ${ONNXRUNTIME_WEB}, ${detail}, ${started.detail}`,
    }),
    // The heap's buffers grow in steps; the API's tensors are as long as the sequence.
    kvBytes: (tokens, { kind }) =>
      (kind === "heap" ? kvCapacity(tokens, config.contextLength) : tokens) * kvBytesPerToken(config),
    onCrash: options.onCrash,
  });
}
