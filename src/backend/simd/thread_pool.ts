import { BackendUnavailableError } from "../../errors.ts";
import { type HelperMessage, type Helpers, HelperThreads } from "../helper_threads.ts";
import type { Kernels, SharedKernels, Variant } from "./kernels.ts";
import { RollCall } from "./roll_call.ts";

/** What a thread of the pool joins. */
export interface JoinOptions {
  variant: Variant;
  shared: SharedKernels;
}

/** What a thread of the pool is told: what to join, or that it is not needed. */
export type PoolOrder = JoinOptions | "leave";

/** What a thread of the pool says: that it is about to help, and that it will no more. */
export type PoolMessage = "ready" | "gone";

/**
 * Starts what a pool of so many threads needs beside the one that coordinates. The main thread does: Deno 2.9 holds up
 * a Worker that another Worker starts for 0.5 s, to see whether a debugger comes (`wait_for_page_wait_for_debugger` in
 * its `libs/core/inspector.rs`).
 */
export function startPoolThreads(threads: number): HelperThreads {
  return new HelperThreads(new URL("../simd/pool_worker.ts", import.meta.url), Math.max(1, threads) - 1);
}

/**
 * Threads beside the calling one that share its passes, over one memory. Ends with `close()`.
 * While a pass runs they spin; 0.2 ms later they sleep. When one traps, the pass in flight traps.
 */
export class ThreadPool {
  readonly #kernels: Kernels;
  /** Threads in all. */
  readonly size: number;
  /** Settles when all threads are gone. */
  readonly #gone: Promise<void>;

  private constructor(kernels: Kernels, size: number, gone: Promise<void>) {
    this.#kernels = kernels;
    this.size = size;
    this.#gone = gone;
  }

  /**
   * @param threads in all, the calling one included; a build without threads has one, and ends the helpers
   * @param helpers of `startPoolThreads(threads)`, the caller's to end
   * @param fail called when a thread ends later, before `close()`: the pool is of no use from then on
   * @throws {BackendUnavailableError} when a thread cannot be started
   */
  static async start(
    kernels: Kernels,
    threads: number,
    helpers: Helpers,
    fail: (why: string) => void,
  ): Promise<ThreadPool> {
    const { variant, module, memory } = kernels;
    const size = variant === "simd128" ? 1 : Math.max(1, threads);
    if (size === 1) {
      // They were started before it was known which build it is.
      helpers.tell("leave" satisfies PoolOrder);
      return new ThreadPool(kernels, size, Promise.resolve());
    }
    const [ready, gone] = [new RollCall(size - 1), new RollCall(size - 1)];
    helpers.hear((said: HelperMessage) => {
      if (!("failed" in said)) return (said.message === "ready" ? ready : gone).answer();
      if (ready.missing > 0) ready.fail(new Error(said.failed));
      else fail(`a thread that shares its passes failed, ${said.failed}`);
    });
    helpers.tell({ variant, shared: { module, memory } } satisfies PoolOrder);
    try {
      await ready.allAnswered;
    } catch (cause) {
      throw new BackendUnavailableError(
        `Cannot start ${size} threads: ${(cause as Error).message}. Ask for fewer with THREADS`,
        { cause },
      );
    }
    kernels.exports.set_threads(size);
    return new ThreadPool(kernels, size, gone.allAnswered);
  }

  /** Sends the others home and waits until they are gone. No pass runs meanwhile. */
  async close(): Promise<void> {
    this.#kernels.exports.dismiss();
    await this.#gone;
  }
}
