import { readFileSync } from "node:fs";
import { ModelFileError, OutOfMemoryError } from "../../errors.ts";
import { kvCapacity } from "../../kv/kv_capacity.ts";
import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import { decodeModel } from "../../model/onnx_proto.ts";
import { onnxFile } from "../../model/onnx_file.ts";
import type { Backend, BackendInfo } from "../backend.ts";
import { InferenceThread, type LoadProgress } from "../inference_thread.ts";
import { ThreadBackend } from "../thread_backend.ts";
import { weightBytes, type WeightForm } from "./graph_rewrite.ts";
import type { LoadOptions, SessionKind } from "./inference_worker.ts";

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

const ONNXRUNTIME_WEB = "1.30.0";
const GIB = 2 ** 30;
/** Runtime, graph and what a pass needs beside weights and KV; 110 MiB were measured on the bundled model. */
const OVERHEAD_BYTES = 160 * 2 ** 20;

/**
 * Loads a model into onnxruntime-web on a thread of its own.
 * @throws {ModelFileError} when the model's files are damaged or of another kind
 * @throws {OutOfMemoryError} before loading, when the weights fit in no form
 */
export async function createOrtWasmBackend(options: OrtWasmOptions): Promise<Backend> {
  const { modelDir, config, threads } = options;
  const onnxPath = onnxFile(modelDir);
  const { form, detail } = chooseWeights(onnxPath, options.weights ?? "auto", options.memoryBudgetBytes);
  const load: LoadOptions = { onnxPath, config, threads, weights: form, session: options.session ?? "auto" };
  const entry = new URL("./inference_worker.ts", import.meta.url);
  return await ThreadBackend.start({
    config,
    start: () => InferenceThread.start(entry, load, options.onProgress),
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

/**
 * f32 where it fits: 7 to 11 times faster at one token. Loading holds the weights twice, here and in the heap, and
 * onnxruntime packs f32 matrices into a copy of its own.
 */
function chooseWeights(
  onnxPath: string,
  wanted: WeightForm | "auto",
  budget: number,
): { form: WeightForm; detail: string } {
  let graph: Uint8Array;
  try {
    graph = readFileSync(onnxPath);
  } catch (cause) {
    throw new ModelFileError(`Cannot read the graph: ${(cause as Error).message}`, { cause });
  }
  const bytes = weightBytes(decodeModel(graph));
  const needed: Record<WeightForm, number> = {
    f32: 3 * bytes.f32 + OVERHEAD_BYTES,
    int4: 2 * bytes.int4 + OVERHEAD_BYTES,
  };
  const heap: Record<WeightForm, number> = { f32: 2 * bytes.f32, int4: bytes.int4 };
  const fits = (form: WeightForm) => needed[form] <= budget && heap[form] + OVERHEAD_BYTES < 3.5 * GIB;
  const form = wanted === "auto" ? (fits("f32") ? "f32" : "int4") : wanted;
  if (fits(form)) {
    const why = wanted === "auto" ? `, f32 would take ${gib(needed.f32)} of ${gib(budget)}` : "";
    return { form, detail: form === "f32" ? "weights expanded to f32 at load" : `the file's int4 weights${why}` };
  }
  throw new OutOfMemoryError(
    `Cannot load the model: its weights as ${form} take ${gib(needed[form])} while loading, ` +
      `${gib(budget)} may be used and a WASM heap ends at 4 GiB`,
  );
}

const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
