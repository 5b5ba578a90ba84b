import assert from "node:assert/strict";
import { test } from "node:test";
import { probeDecode } from "../../src/backend/probe_decode.ts";
import { keepFaster } from "../../src/backend/select_backend.ts";
import { BackendUnavailableError } from "../../src/errors.ts";
import { FakeBackend } from "../fakes/fake_backend.ts";

for (const faster of [0, 1]) {
  test(`keepFaster() keeps the ${["first", "second"][faster]} where that is faster, and says by how much`, async () => {
    const backends = [0, 1].map((i) => new FakeBackend({ vocabSize: 20, delayMs: i === faster ? 0 : 15 }));
    const [first, second] = backends as [FakeBackend, FakeBackend];
    second.info.name = "simd";
    const kept = await keepFaster(first, second);
    assert.equal(kept, backends[faster]);
    assert.deepEqual(backends.map(({ disposed }) => disposed), [faster !== 0, faster !== 1]);
    const other = faster === 0 ? "simd" : "ort-wasm";
    assert.match(kept.info.reason, new RegExp(`^a test: [\\d.]+ ms a token, ${other} takes \\d\\d\\.\\d ms a token$`));
  });
}

for (const failing of [0, 1]) {
  test(`keepFaster() keeps the ${["second", "first"][failing]} where the other fails as it is measured, and says why`, async () => {
    const backends = [0, 1].map(() => new FakeBackend({ vocabSize: 20 }));
    const [first, second] = backends as [FakeBackend, FakeBackend];
    second.info.name = "simd";
    backends[failing]!.failNext = new BackendUnavailableError("Cannot run the model: it is gone");
    const kept = await keepFaster(first, second);
    assert.equal(kept, backends[1 - failing]);
    assert.deepEqual(backends.map(({ disposed }) => disposed), [failing === 0, failing === 1]);
    const other = failing === 0 ? "ort-wasm" : "simd";
    assert.equal(kept.info.reason, `a test, after ${other}: Cannot run the model: it is gone`);
  });
}

test("keepFaster() ends both where both fail, and says why", async () => {
  const backends = [0, 1].map(() => new FakeBackend({ vocabSize: 20 }));
  for (const backend of backends) backend.failNext = new BackendUnavailableError("Cannot run the model: it is gone");
  const [first, second] = backends as [FakeBackend, FakeBackend];
  await assert.rejects(keepFaster(first, second), { name: "BackendUnavailableError", message: /it is gone/ });
  assert.deepEqual(backends.map(({ disposed }) => disposed), [true, true]);
});

test("probeDecode() decodes greedily and leaves nothing behind", async () => {
  const backend = new FakeBackend({ vocabSize: 20 });
  assert.ok(await probeDecode(backend) > 0);
  assert.equal(backend.caches.size, 0);
  assert.ok(backend.passes.every(({ tokens }) => tokens === 1));
  assert.deepEqual(backend.passes.map(({ start }) => start), backend.passes.map((_, i) => i));
});
