import { BackendUnavailableError } from "../../errors.ts";
import { workerData } from "../../host/threads.ts";
import { readDecoderGraph } from "../../model/decoder_graph.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { readOnnx } from "../../model/read_onnx.ts";
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

function readModel({ onnxPath, config, weights }: LoadOptions, onProgress: LoadProgress): RewrittenModel {
  const model = readOnnx(onnxPath);
  const decoder = readDecoderGraph(model, config);
  return rewriteModel(model, decoder, onnxPath, weights, (done) => onProgress("expanding weights", done));
}

await serveThread(async ({ onProgress }) => {
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
