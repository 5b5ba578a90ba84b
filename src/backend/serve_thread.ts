import { BackendUnavailableError } from "../errors.ts";
import { exitThread, parentPort } from "../host/threads.ts";
import type { RowResult } from "./backend.ts";
import type { HelperMessage, Helpers } from "./helper_threads.ts";
import type { LoadProgress } from "./inference_thread.ts";
import { exportPart, importPart } from "./kv_transfer.ts";
import { Mailbox } from "./mailbox.ts";
import type { ModelSession } from "./model_session.ts";
import type { Reply, Request } from "./thread_protocol.ts";

type SendReply = (message: Reply, transfer?: ArrayBuffer[]) => void;

type SessionRequest = Exclude<Request, { type: "helper" }>;

/** What loading a model has to do with. */
export interface LoadContext {
  onProgress: LoadProgress;
  /** Ends the thread, at any time later. */
  fail(message: string): void;
  /** Where the backend started some. */
  helpers: Helpers;
}

/**
 * The inference thread's side: loads a model, then runs one pass after another. HTTP never waits for it.
 * @param load gives the session, a name for its kind, and how many threads share a pass
 */
export async function serveThread(
  load: (context: LoadContext) => Promise<{ session: ModelSession; kind: string; threads: number }>,
): Promise<void> {
  const port = parentPort!;
  const reply: SendReply = (message, transfer = []) => port.postMessage(message, transfer);
  const fail = (message: string) => {
    reply({ type: "failed", message });
    exitThread(1);
  };
  const onProgress: LoadProgress = (step, fraction) => reply({ type: "progress", step, fraction });
  const said = new Mailbox<HelperMessage>();
  const helpers: Helpers = {
    tell: (message) => reply({ type: "tell", message }),
    hear: (listener) => said.hear(listener),
  };
  const loaded = Promise.withResolvers<ModelSession>();
  const run = loaded.promise.then((session) => requestRunner(session, reply));
  let last = Promise.resolve();
  port.on("message", (request: Request) => {
    if (request.type === "helper") return said.put(request.said);
    last = last.then(async () => (await run)(request)).catch(async (error) => {
      if (!(error instanceof WebAssembly.RuntimeError)) return replyError(reply, error);
      // A trap leaves the module's memory in the middle of something: no pass may follow it.
      replyError(reply, new BackendUnavailableError(`Cannot finish the pass: the engine trapped, ${error.message}`));
      await end(await loaded.promise, 1);
    });
  });
  try {
    const { session, kind, threads } = await load({ onProgress, fail, helpers });
    loaded.resolve(session);
    const { detail, device, heapBytes, kvRoomBytes, rowsPerPass, kv: { unit: kvUnit } } = session;
    reply({ type: "ready", kind, detail, device, heapBytes, kvRoomBytes, threads, rowsPerPass, kvUnit });
  } catch (error) {
    replyError(reply, error);
  }
}

/** Does what requests ask of the session, one at a time. */
function requestRunner(session: ModelSession, reply: SendReply): (request: SessionRequest) => Promise<void> {
  /** Nobody waits for a fork: one that could not be made fails where it is used. */
  const failedForks = new Map<number, Error>();
  const fork = async (cacheId: number, toId: number, length: number): Promise<void> => {
    try {
      requireForked([{ cacheId }]);
      await session.forkCache(cacheId, toId, length);
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) throw error;
      failedForks.set(toId, error as Error);
    }
  };
  const requireForked = (rows: readonly { cacheId: number | undefined }[]): void => {
    for (const { cacheId = -1 } of rows) {
      const error = failedForks.get(cacheId);
      if (error) throw error;
    }
  };
  return async (request) => {
    switch (request.type) {
      case "close":
        return await end(session, 0);
      case "free":
        failedForks.delete(request.cacheId);
        return session.freeCache(request.cacheId);
      case "fork":
        return await fork(request.cacheId, request.toId, request.length);
      case "stats":
        return reply({ type: "stats", stats: session.stats() });
      case "export": {
        requireForked([request]);
        const exported = await exportPart(session.kv, request);
        return reply({ type: "exported", ...exported }, [exported.buffer]);
      }
      case "import":
        await importPart(session.kv, request);
        return reply({ type: "imported", buffer: request.buffer }, [request.buffer]);
      case "run": {
        requireForked(request.rows);
        const results = await session.run(request.rows);
        return reply({ type: "results", results }, buffersOf(results));
      }
    }
  };
}

/** What may be handed over of results. A ranking is small: it is copied. */
function buffersOf(results: readonly RowResult[]): ArrayBuffer[] {
  const buffers = results.flatMap(({ logits, hiddenStates, layers = [] }) => [
    logits.buffer,
    hiddenStates?.buffer,
    ...layers.flatMap(({ queries, keys, values, weights }) => [queries, keys, values, weights]).map((a) => a.buffer),
  ]);
  return buffers.filter((buffer) => buffer instanceof ArrayBuffer);
}

function replyError(reply: SendReply, error: unknown): void {
  const { name, message } = error instanceof Error ? error : new Error(String(error));
  reply({ type: "error", name, message });
}

async function end(session: ModelSession, code: number): Promise<void> {
  await session.close?.();
  exitThread(code);
}
