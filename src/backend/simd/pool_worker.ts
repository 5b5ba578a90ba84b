import { parentPort, workerData } from "node:worker_threads";
import { loadVariant } from "./kernels.ts";
import type { JoinOptions } from "./thread_pool.ts";

const { variant, shared, index } = workerData as JoinOptions;
const { exports } = await loadVariant(variant, shared);
parentPort!.postMessage("ready");
try {
  exports.help(index);
  parentPort!.postMessage("gone");
} catch (error) {
  // Or the coordinator would wait for this thread's part of the pass.
  exports.help_failed();
  throw error;
}
