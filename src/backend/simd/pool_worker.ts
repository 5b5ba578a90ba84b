import { parentPort, workerData } from "../../host/threads.ts";
import { loadVariant } from "./kernels.ts";
import type { JoinOptions, PoolMessage } from "./thread_pool.ts";

/** From 1; 0 is the thread that coordinates. */
const index = workerData as number;
const post = (message: PoolMessage) => parentPort!.postMessage(message);

parentPort!.on("message", async ({ variant, shared }: JoinOptions) => {
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
