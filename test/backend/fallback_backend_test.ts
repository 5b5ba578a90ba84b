import assert from "node:assert/strict";
import { test } from "node:test";
import { FallbackBackend } from "../../src/backend/fallback_backend.ts";
import { BackendUnavailableError } from "../../src/errors.ts";
import { FakeBackend } from "../fakes/fake_backend.ts";
import { collect } from "../kv/collect.ts";

function pair() {
  const [first, second] = [new FakeBackend({ vocabSize: 50 }), new FakeBackend({ vocabSize: 50 })];
  second.info.name = "simd";
  const reasons: string[] = [];
  const backend = new FallbackBackend(first, async (reason) => {
    reasons.push(reason);
    return second;
  });
  return { first, second, backend, reasons };
}

test("FallbackBackend runs on the first as long as that is there", async () => {
  const { first, second, backend, reasons } = pair();
  await backend.forward([{ cache: backend.createKvCache(), tokenIds: [1, 2] }]);
  assert.equal(await backend.recover(), undefined);
  assert.deepEqual([first.passes.length, second.passes.length, reasons.length], [1, 0, 0]);
  assert.equal(backend.info, first.info);
  await backend[Symbol.asyncDispose]();
  assert.ok(first.disposed && !second.disposed);
});

test("FallbackBackend starts the second once, however many ask", async () => {
  const { first, second, backend, reasons } = pair();
  const cache = backend.createKvCache();
  await backend.forward([{ cache, tokenIds: [1, 2] }]);
  const exported = await collect(backend.exportKv(cache));
  first.failure = new BackendUnavailableError("Cannot run: it is gone");
  assert.equal(backend.failure, first.failure);
  const infos = await Promise.all([backend.recover(), backend.recover(), backend.recover()]);
  assert.deepEqual(infos, [second.info, second.info, second.info]);
  assert.deepEqual(reasons, ["after ort-wasm failed: Cannot run: it is gone"]);
  assert.equal(backend.failure, undefined);
  await backend.forward([{ cache: backend.createKvCache(), tokenIds: [3] }]);
  assert.deepEqual([first.passes.length, second.passes.length], [1, 1]);
  // KV of the first would be taken for the second's.
  await assert.rejects(backend.importKv([exported], 2), {
    name: "BackendUnavailableError",
    message: /other arithmetic/,
  });
  await assert.rejects(collect(backend.exportKv(backend.createKvCache())), BackendUnavailableError);
  await backend[Symbol.asyncDispose]();
  assert.ok(first.disposed && second.disposed);
});

test("FallbackBackend revives what it runs on", async () => {
  const { first, second, backend } = pair();
  const revived: string[] = [];
  for (const one of [first, second]) Object.assign(one, { revive: () => revived.push(one.info.name) });
  backend.revive();
  first.failure = new BackendUnavailableError("Cannot run: it is gone");
  await backend.recover();
  backend.revive();
  assert.deepEqual(revived, [first.info.name, second.info.name]);
});

test("FallbackBackend has nothing to go on with when the second cannot start, or fails too", async () => {
  const { first, second, backend } = pair();
  first.failure = new BackendUnavailableError("Cannot run: it is gone");
  second.failure = new BackendUnavailableError("Cannot run: so is it");
  assert.equal(await backend.recover(), undefined);
  assert.equal(backend.failure, second.failure);
  const without = new FallbackBackend(first, () => Promise.reject(new Error("no memory")));
  await assert.rejects(without.recover(), /no memory/);
  await without[Symbol.asyncDispose]();
});
