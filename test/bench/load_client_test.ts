import assert from "node:assert/strict";
import { test } from "node:test";
import { LoadClient } from "../../bench/load/load_client.ts";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";

test("clients that do everything at once leave nothing behind", async () => {
  const { engine, backend } = fakeEngine({
    warmBudgetBytes: 2 ** 20,
    parking: { pays: () => true },
    sessionKey: "a key of this server",
    kvBudgetBytes: 100_000,
  });
  const app = createApp(engine);
  const clients = Array.from({ length: 4 }, (_, i) => new LoadClient(app.fetch, engine, i));
  await Promise.all(clients.map(async (client) => {
    for (let step = 0; step < 150; step++) await client.step();
  }));
  const done = new Set(clients.flatMap(({ counts }) => Object.keys(counts)));
  for (const what of ["go on", "park", "evict", "leave", "resume", "retry", "rewind", "fork", "carry", "delete"]) {
    assert.ok(done.has(what), what);
  }
  const states = new Set(clients.flatMap(({ samples }) => samples.map(({ state }) => state)));
  assert.deepEqual([...states].sort(), ["cold", "hot", "warm"]);
  for (const { id } of engine.sessions.list()) await engine.sessions.delete(id);
  assert.equal(backend.caches.size, 0);
  const { sessions, hotBytes, warmBytes } = engine.sessions.stats();
  assert.deepEqual({ sessions, hotBytes, warmBytes }, { sessions: 0, hotBytes: 0, warmBytes: 0 });
});
