import type { Kernels } from "../../src/backend/simd/kernels.ts";
import { startPoolThreads, ThreadPool } from "../../src/backend/simd/thread_pool.ts";

/** A pool to measure on: where one of its threads fails, so does the measurement. */
export const startPool = (kernels: Kernels, threads: number): Promise<ThreadPool> =>
  ThreadPool.start(kernels, threads, startPoolThreads(threads), (why) => {
    throw new Error(`Cannot go on measuring: ${why}`);
  });
