/** Messages between the backend and its inference thread. */
import type { ModelConfig } from "../../model/model_config.ts";
import type { RowResult } from "../backend.ts";
import type { WeightForm } from "./graph_rewrite.ts";
import type { SessionRow } from "./ort_session.ts";

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

/** To the thread. Requests are answered in order. */
export type Request =
  | { type: "run"; row: SessionRow }
  | { type: "free"; cacheId: number };

/** From the thread. */
export type Reply =
  | { type: "progress"; step: string; fraction: number }
  | { type: "ready"; session: SessionKind; detail: string; heapBytes: number }
  | { type: "result"; result: RowResult }
  /** `name` tells which class of `errors.ts` it was. */
  | { type: "error"; name: string; message: string };
