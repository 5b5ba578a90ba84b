/**
 * Threads. In a page `runtime/browser/threads.ts` takes the place of this module: there the last two parts of a
 * program's address, such as `simd/inference_worker.ts`, say which one it is.
 */
import process from "node:process";

export { parentPort, type ResourceLimits, Worker, workerData } from "node:worker_threads";

/** Ends the thread that calls it, and only that. Deno 2.9 has no `parentPort.close()`. */
export const exitThread = (code: number): void => process.exit(code);
