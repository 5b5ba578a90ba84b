import { exitThread, parentPort, workerData } from "../../host/threads.ts";
import { loadVariant } from "./kernels.ts";
import type { PoolMessage, PoolOrder } from "./thread_pool.ts";

/** From 1; 0 is the thread that coordinates. */
const index = workerData as number;
const post = (message: PoolMessage) => parentPort!.postMessage(message);

parentPort!.on("message", async (order: PoolOrder) => {
  if (order === "leave") return exitThread(0);
  const { variant, shared } = order;
  const { exports } = await loadVariant(variant, { shared });
  post("ready");
  try {
    exports.help(index);
  } catch {
    // The coordinator waits for this thread's part of the pass, and traps when it hears of this.
    exports.help_failed();
  }
  post("gone");
});
