/** A pool of two helpers: the first helps as ever; the second says that it will, waits outside, and dies when told. */
import { parentPort, workerData } from "../../../src/host/threads.ts";

if (workerData === 1) {
  await import("../../../src/backend/simd/pool_worker.ts");
} else {
  parentPort!.on("message", (told) => {
    if (told === "die") throw new Error("out of memory");
    parentPort!.postMessage("ready");
  });
}
