import { readFileSync } from "node:fs";
import { workerData } from "node:worker_threads";
import { BackendUnavailableError, ModelFileError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { decodeModel } from "../../model/onnx_proto.ts";
import type { LoadProgress } from "../inference_thread.ts";
import { serveThread } from "../serve_thread.ts";
import { ApiSession } from "./api_session.ts";
import { rewriteModel, type RewrittenModel, type WeightForm } from "./graph_rewrite.ts";
import { HeapSession } from "./heap_session.ts";

/** How the KV cache is kept: in the WASM heap, or by the public API alone. */
export type SessionKind = "heap" | "api";

/** What the thread needs to load a model; handed over as `workerData`. */
export interface LoadOptions {
  /** The `.onnx` file; its external data lies beside it. */
  onnxPath: string;
  config: ModelConfig;
  threads: number;
  weights: WeightForm;
  session: SessionKind | "auto";
}

function readModel({ onnxPath, weights }: LoadOptions, onProgress: LoadProgress): RewrittenModel {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(onnxPath);
  } catch (cause) {
    throw new ModelFileError(`Cannot read the graph: ${(cause as Error).message}`, { cause });
  }
  return rewriteModel(decodeModel(bytes), onnxPath, weights, (done) => onProgress("expanding weights", done));
}

await serveThread(async (onProgress) => {
  const options = workerData as LoadOptions;
  const { config, threads, session } = options;
  const model = readModel(options, onProgress);
  onProgress("starting onnxruntime", 0);
  if (session !== "api") {
    try {
      return { session: await HeapSession.create(model, config, threads), kind: "heap", threads };
    } catch (error) {
      if (!(session === "auto" && error instanceof BackendUnavailableError)) throw error;
    }
  }
  return { session: await ApiSession.create(model, config, threads), kind: "api", threads };
});
