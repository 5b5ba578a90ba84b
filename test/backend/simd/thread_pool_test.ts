import assert from "node:assert/strict";
import { test } from "node:test";
import { type HelperMessage, HelperThreads } from "../../../src/backend/helper_threads.ts";
import { loadVariant } from "../../../src/backend/simd/kernels.ts";
import { startPoolThreads, ThreadPool } from "../../../src/backend/simd/thread_pool.ts";
import { BackendUnavailableError } from "../../../src/errors.ts";

test("a pool has as many threads as were started for it, and sends them home", async () => {
  const kernels = await loadVariant("simd128-threads");
  const helpers = startPoolThreads(3);
  const pool = await ThreadPool.start(kernels, 3, helpers, assert.fail);
  assert.equal(pool.size, 3);
  await pool.close();
  await helpers.end();
});

test("a build without threads sends those that were started home at once", async () => {
  const helpers = startPoolThreads(3);
  const pool = await ThreadPool.start(await loadVariant("simd128"), 3, helpers, assert.fail);
  assert.equal(pool.size, 1);
  const said: HelperMessage[] = [];
  await new Promise<void>((resolve) => helpers.hear((message) => said.push(message) === 2 && resolve()));
  assert.deepEqual(said, [{ failed: "it ended by itself" }, { failed: "it ended by itself" }]);
  await pool.close();
  await helpers.end();
});

test("a thread that ends before it can help is told of, however early that was", async () => {
  const kernels = await loadVariant("simd128-threads");
  for (const waitMs of [0, 300]) {
    const helpers = new HelperThreads(new URL("./no_such_worker.ts", import.meta.url), 1);
    await new Promise((resolve) => setTimeout(resolve, waitMs));
    await assert.rejects(ThreadPool.start(kernels, 2, helpers, assert.fail), (error: Error) => {
      assert.ok(error instanceof BackendUnavailableError);
      assert.match(error.message, /^Cannot start 2 threads: .+\. Ask for fewer with THREADS$/s);
      return true;
    });
    await helpers.end();
  }
});
