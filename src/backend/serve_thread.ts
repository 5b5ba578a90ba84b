import process from "node:process";
import { parentPort } from "node:worker_threads";
import { BackendUnavailableError } from "../errors.ts";
import type { LoadProgress } from "./inference_thread.ts";
import type { ModelSession } from "./model_session.ts";
import type { Reply, Request } from "./thread_protocol.ts";

/**
 * The inference thread's side: loads a model, then runs one pass after another. HTTP never waits for it.
 * @param load gives the session, a name for its kind, and how many threads share a pass
 */
export async function serveThread(
  load: (onProgress: LoadProgress) => Promise<{ session: ModelSession; kind: string; threads: number }>,
): Promise<void> {
  const port = parentPort!;
  const reply = (message: Reply, transfer: ArrayBuffer[] = []) => port.postMessage(message, transfer);
  const replyError = (error: unknown) => {
    const { name, message } = error instanceof Error ? error : new Error(String(error));
    reply({ type: "error", name, message });
  };
  const end = async (session: ModelSession, code: number): Promise<void> => {
    await session.close?.();
    // Of this thread. Deno 2.9 has no `parentPort.close()`.
    process.exit(code);
  };
  const run = async (session: ModelSession, request: Request): Promise<void> => {
    if (request.type === "free") return session.freeCache(request.cacheId);
    if (request.type === "close") return await end(session, 0);
    const results = await session.run(request.rows);
    const buffers = results.flatMap(({ logits, hiddenStates }) => [logits.buffer, hiddenStates?.buffer]);
    reply({ type: "results", results }, buffers.filter((buffer) => buffer instanceof ArrayBuffer));
  };
  try {
    const { session, kind, threads } = await load((step, fraction) => reply({ type: "progress", step, fraction }));
    let last = Promise.resolve();
    port.on("message", (request: Request) => {
      last = last.then(() => run(session, request)).catch(async (error) => {
        if (!(error instanceof WebAssembly.RuntimeError)) return replyError(error);
        // A trap leaves the module's memory in the middle of something: no pass may follow it.
        replyError(new BackendUnavailableError(`Cannot finish the pass: the engine trapped, ${error.message}`));
        await end(session, 1);
      });
    });
    const { detail, heapBytes, rowsPerPass } = session;
    reply({ type: "ready", kind, detail, heapBytes, threads, rowsPerPass });
  } catch (error) {
    replyError(error);
  }
}
