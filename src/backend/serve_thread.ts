import { BackendUnavailableError } from "../errors.ts";
import { exitThread, parentPort } from "../host/threads.ts";
import type { HelperMessage, Helpers } from "./helper_threads.ts";
import type { LoadProgress } from "./inference_thread.ts";
import { exportPart, importPart } from "./kv_transfer.ts";
import { Mailbox } from "./mailbox.ts";
import type { ModelSession } from "./model_session.ts";
import type { Reply, Request } from "./thread_protocol.ts";

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
  const reply = (message: Reply, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer);
  const replyError = (error: unknown) => {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    reply({ type: "error", name, message });
  };
  const end = async (session: ModelSession, code: number): Promise<void> => {
    await session.close?.();
    exitThread(code);
  };
  /** Nobody waits for a fork: one that could not be made fails where it is used. */
  const failedForks = new Map<number, Error>();
  const fork = async (session: ModelSession, cacheId: number, toId: number, length: number): Promise<void> => {
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
  const run = async (session: ModelSession, request: Exclude<Request, { type: "helper" }>): Promise<void> => {
    switch (request.type) {
      case "close":
        return await end(session, 0);
      case "free":
        failedForks.delete(request.cacheId);
        return session.freeCache(request.cacheId);
      case "fork":
        return await fork(session, request.cacheId, request.toId, request.length);
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
    }
    requireForked(request.rows);
    const results = await session.run(request.rows);
    // A ranking is small: it is copied.
    const buffers = results.flatMap(({ logits, hiddenStates, layers = [] }) => [
      logits.buffer,
      hiddenStates?.buffer,
      ...layers.flatMap(({ queries, keys, values, weights }) => [queries, keys, values, weights]).map((a) => a.buffer),
    ]);
    reply({ type: "results", results }, buffers.filter((buffer) => buffer instanceof ArrayBuffer));
  };
  try {
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
    let last = Promise.resolve();
    port.on("message", (request: Request) => {
      if (request.type === "helper") return said.put(request.said);
      last = last.then(async () => run(await loaded.promise, request)).catch(async (error) => {
        if (!(error instanceof WebAssembly.RuntimeError)) return replyError(error);
        // A trap leaves the module's memory in the middle of something: no pass may follow it.
        replyError(new BackendUnavailableError(`Cannot finish the pass: the engine trapped, ${error.message}`));
        await end(await loaded.promise, 1);
      });
    });
    const { session, kind, threads } = await load({ onProgress, fail, helpers });
    loaded.resolve(session);
    const { detail, device, heapBytes, kvRoomBytes, rowsPerPass, kv: { unit: kvUnit } } = session;
    reply({ type: "ready", kind, detail, device, heapBytes, kvRoomBytes, threads, rowsPerPass, kvUnit });
  } catch (error) {
    replyError(error);
  }
}
