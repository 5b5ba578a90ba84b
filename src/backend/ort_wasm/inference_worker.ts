/** The inference thread: loads the model, then runs one row after another. HTTP never waits for it. */
import { readFileSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { BackendUnavailableError, ModelFileError } from "../../errors.ts";
import { decodeModel } from "../../model/onnx_proto.ts";
import { ApiSession } from "./api_session.ts";
import { rewriteModel, type RewrittenModel } from "./graph_rewrite.ts";
import { HeapSession } from "./heap_session.ts";
import type { OrtSession } from "./ort_session.ts";
import type { LoadOptions, Reply, Request, SessionKind } from "./protocol.ts";

const port = parentPort!;
const options = workerData as LoadOptions;

function reply(message: Reply, transfer: ArrayBuffer[] = []): void {
  port.postMessage(message, transfer);
}

function replyError(error: unknown): void {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  reply({ type: "error", name, message });
}

function readModel(): RewrittenModel {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(options.onnxPath);
  } catch (cause) {
    throw new ModelFileError(`Cannot read the graph: ${(cause as Error).message}`, { cause });
  }
  return rewriteModel(
    decodeModel(bytes),
    options.onnxPath,
    options.weights,
    (fraction) => reply({ type: "progress", step: "expanding weights", fraction }),
  );
}

async function load(): Promise<{ session: OrtSession; kind: SessionKind }> {
  const model = readModel();
  reply({ type: "progress", step: "starting onnxruntime", fraction: 0 });
  const { config, threads } = options;
  if (options.session !== "api") {
    try {
      return { session: await HeapSession.create(model, config, threads), kind: "heap" };
    } catch (error) {
      const canFallBack = options.session === "auto" && error instanceof BackendUnavailableError;
      if (!canFallBack) throw error;
    }
  }
  return { session: await ApiSession.create(model, config, threads), kind: "api" };
}

async function run(session: OrtSession, request: Request): Promise<void> {
  if (request.type === "free") return session.freeCache(request.cacheId);
  const result = await session.run(request.row);
  const buffers = [result.logits.buffer, result.hiddenStates?.buffer].filter((b) => b instanceof ArrayBuffer);
  reply({ type: "result", result }, buffers);
}

try {
  const { session, kind } = await load();
  let last = Promise.resolve();
  port.on("message", (request: Request) => {
    last = last.then(() => run(session, request)).catch(replyError);
  });
  reply({ type: "ready", session: kind, detail: session.detail, heapBytes: session.heapBytes });
} catch (error) {
  replyError(error);
}
