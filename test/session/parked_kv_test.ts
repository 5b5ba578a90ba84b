import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { FAKE_BYTES_PER_TOKEN } from "../fakes/fake_backend.ts";
import { collect } from "../fakes/fake_engine.ts";
import { durableEngine } from "../fakes/durable_engine.ts";
import { append, dataDir, filesEnding, useDataDir } from "./data_dir.ts";

useDataDir();

describe("parked KV on disk", () => {
  const options = { parkedBudgetBytes: 100 * FAKE_BYTES_PER_TOKEN, parking: { pays: () => true } };

  test("KV is parked, survives a restart, and comes back", async () => {
    const first = await durableEngine(dataDir, options);
    await append(first, [1, 2, 3]);
    assert.equal((await first.engine.sessions.park("s")).state, "parked");
    const second = await durableEngine(dataDir, options);
    assert.deepEqual([second.engine.sessions.inspect("s").state, second.engine.sessions.inspect("s").cachedTokens], [
      "parked",
      6,
    ]);
    const session = { id: "s", mode: "append" as const };
    const request = { prompt: { ids: [9] }, maxTokens: 3, ignoreEos: true, session };
    assert.equal((await second.engine.sessions.plan(request)).reusedTokens, 6);
    const { ids, end } = await collect(second.engine.generate(request));
    assert.deepEqual([end.usage.cachedTokens, end.usage.cache.reason], [6, "restored"]);
    assert.deepEqual(ids, await append(first, [9], 3));
    await second.engine.sessions.evict("s");
    assert.deepEqual(await filesEnding(".kv"), []);
  });

  test("an engine that ends parks what is idle", async () => {
    const first = await durableEngine(dataDir, options);
    await append(first, [1, 2, 3]);
    await first.engine[Symbol.asyncDispose]();
    assert.equal((await durableEngine(dataDir, options)).engine.sessions.inspect("s").state, "parked");
  });

  test("an engine that ends keeps what was used last, as far as the budget goes", async () => {
    const first = await durableEngine(dataDir, { ...options, parkedBudgetBytes: 13 * FAKE_BYTES_PER_TOKEN });
    for (const id of ["a", "b", "c", "d"]) {
      await collect(
        first.engine.generate({ prompt: { ids: [1, 2, 3] }, maxTokens: 4, ignoreEos: true, session: { id } }),
      );
      // Already there, and used less lately than what is to come.
      if (id === "a") await first.engine.sessions.park(id);
    }
    await first.engine[Symbol.asyncDispose]();
    const statesWith = async (options: object) => {
      const { sessions } = (await durableEngine(dataDir, options)).engine;
      return ["a", "b", "c", "d"].map((id) => sessions.describe(id).state);
    };
    assert.deepEqual(await statesWith(options), ["cold", "cold", "parked", "parked"]);
    const smaller = { ...options, parkedBudgetBytes: 7 * FAKE_BYTES_PER_TOKEN };
    assert.deepEqual(await statesWith(smaller), ["cold", "cold", "cold", "parked"]);
  });

  const damages: Record<string, (bytes: Uint8Array) => Uint8Array> = {
    "flipped in a bit": (bytes) => bytes.map((byte, i) => i === bytes.length - 10 ? byte ^ 1 : byte),
    "flipped in a bit of its checksum": (bytes) => bytes.map((byte, i) => i === bytes.length - 1 ? byte ^ 1 : byte),
    "cut short by a byte": (bytes) => bytes.subarray(0, -1),
    "longer by a byte": (bytes) => Uint8Array.from([...bytes, 0]),
  };
  for (const [damage, damaged] of Object.entries(damages)) {
    test(`a file that is ${damage} costs time, not tokens`, async () => {
      const first = await durableEngine(dataDir, options);
      await append(first, [1, 2, 3]);
      await first.engine.sessions.park("s");
      const [path] = await filesEnding(".kv");
      await writeFile(path!, damaged(new Uint8Array(await readFile(path!))));
      const second = await durableEngine(dataDir, options);
      assert.deepEqual(await append(second, [9]), await append(first, [9]));
      assert.equal(second.engine.sessions.stats().failedRestores, 1);
      assert.equal(second.backend.caches.size, 1);
    });
  }

  test("KV that the transcript has left behind is not taken", async () => {
    const first = await durableEngine(dataDir, options);
    await append(first, [1, 2, 3]);
    await first.engine.sessions.park("s");
    const [kv] = await filesEnding(".kv");
    const bytes = await readFile(kv!);
    await first.engine.sessions.rewind("s", { toTurn: 0 });
    await append(first, [4, 5, 6]);
    await first.engine.sessions.evict("s");
    // As if the process had died before it removed the file.
    await writeFile(kv!, bytes);
    assert.equal((await durableEngine(dataDir, options)).engine.sessions.inspect("s").state, "cold");
    assert.deepEqual(await filesEnding(".kv"), []);
  });

  test("KV of another arithmetic or over the budget is not taken", async () => {
    const first = await durableEngine(dataDir, options);
    await append(first, [1, 2, 3]);
    await first.engine.sessions.park("s");
    const [kv] = await filesEnding(".kv");
    const bytes = await readFile(kv!);
    const stateAfter = async (options: object) =>
      (await durableEngine(dataDir, options)).engine.sessions.inspect("s").state;
    assert.equal(await stateAfter({ ...options, variant: "other" }), "cold");
    await writeFile(kv!, bytes);
    assert.equal(await stateAfter(options), "parked");
    assert.equal(await stateAfter({ ...options, parkedBudgetBytes: 10 }), "cold");
  });
});
