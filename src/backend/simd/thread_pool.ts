import { BackendUnavailableError } from "../../errors.ts";
import { Worker } from "../../host/threads.ts";
import type { Kernels, SharedKernels, Variant } from "./kernels.ts";

/** What a thread of the pool needs to join; handed over as `workerData`. */
export interface JoinOptions {
  variant: Variant;
  shared: SharedKernels;
  /** From 1; 0 is the thread that coordinates. */
  index: number;
}

/** What a thread of the pool says: that it is about to help, and that it will no more. */
export type PoolMessage = "ready" | "gone";

/**
 * Threads beside the calling one that share its passes, over one memory. Ends with `close()`.
 * While a pass runs they spin; 0.2 ms later they sleep. When one fails, the pass in flight traps.
 */
export class ThreadPool {
  readonly #kernels: Kernels;
  readonly #workers: readonly Worker[];
  /** Settles when all threads are gone. */
  readonly #gone: Promise<unknown>;

  private constructor(kernels: Kernels, workers: readonly Worker[]) {
    this.#kernels = kernels;
    this.#workers = workers;
    this.#gone = Promise.all(workers.map((worker) => received(worker, "gone")));
  }

  /**
   * @param threads in all, the calling one included; a build without threads has one
   * @throws {BackendUnavailableError} when a thread cannot be started
   */
  static async start(kernels: Kernels, threads: number): Promise<ThreadPool> {
    const { variant, module, memory } = kernels;
    const count = variant === "simd128" ? 1 : Math.max(1, threads);
    const workers = Array.from({ length: count - 1 }, (_, i) => {
      const workerData: JoinOptions = { variant, shared: { module, memory }, index: i + 1 };
      return new Worker(new URL("../simd/pool_worker.ts", import.meta.url), { workerData });
    });
    try {
      await Promise.all(workers.map((worker) => received(worker, "ready")));
    } catch (cause) {
      await Promise.all(workers.map((worker) => worker.terminate()));
      throw new BackendUnavailableError(
        `Cannot start ${count} threads: ${(cause as Error).message}. Ask for fewer with THREADS`,
        { cause },
      );
    }
    kernels.exports.set_threads(count);
    return new ThreadPool(kernels, workers);
  }

  /** Threads in all. */
  get size(): number {
    return this.#workers.length + 1;
  }

  /** Sends the others home and waits until they are gone. No pass runs meanwhile. */
  async close(): Promise<void> {
    this.#kernels.exports.dismiss();
    await this.#gone;
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

/**
 * Waits for a thread's message. Deno 2.9 has no "exit" event for a Worker that ends by itself, when that Worker's
 * parent is one: threads say so.
 */
function received(worker: Worker, wanted: PoolMessage): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.on("message", (message: PoolMessage) => message === wanted && resolve());
    worker.once("error", reject);
    worker.once("exit", () => reject(new Error("it ended by itself")));
  });
}
