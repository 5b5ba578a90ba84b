import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { sseEvents, textOf } from "../http/client.ts";
import { readAndVanish, readSlowly, requestRaw } from "./raw_client.ts";
import { listen } from "./this_runtime.ts";

const messages = [{ role: "user", content: "Hello" }];
const base = { messages, ignore_eos: true, stream: true };

/** A real socket with this runtime's listener over a model that takes `delayMs` a pass. */
function served(delayMs: number, contextLength?: number) {
  const { engine, backend } = fakeEngine({ delayMs, contextLength });
  const listener = listen({ hostname: "127.0.0.1", port: 0, fetch: createApp(engine).fetch });
  const url = `http://127.0.0.1:${listener.port}`;
  return {
    engine,
    backend,
    port: listener.port,
    post: (path: string, body: object, headers: Record<string, string> = {}) =>
      fetch(url + path, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: JSON.stringify(body),
      }),
    get: (path: string, headers: Record<string, string> = {}) => fetch(url + path, { headers }),
    async [Symbol.asyncDispose]() {
      await engine.drain(0);
      await listener.stop();
    },
  };
}

describe("over real sockets", () => {
  test("a client that vanishes mid-stream resumes where it was, and the turn is there once", async () => {
    await using server = served(5);
    const whole = textOf(
      sseEvents(await (await server.post("/v1/chat/completions", { ...base, max_tokens: 40 })).text()),
    );
    const session = { id: "s", on_disconnect: "continue" };
    const seen = await readAndVanish(await requestRaw(server.port, { ...base, max_tokens: 40, session }), 6);
    await sleep(50);
    const last = seen.at(-1)!.id;
    const path = `/v1/streams/${last.slice(0, last.lastIndexOf("."))}`;
    const rest = sseEvents(await (await server.get(path, { "last-event-id": last })).text());
    assert.equal(textOf([...seen, ...rest]), whole);
    assert.equal(rest.at(-1)!.data, "[DONE]");
    assert.equal(server.engine.sessions.describe("s").turn, 1);
  });

  test("the same request again, with its key, joins the answer that is still running", async () => {
    await using server = served(5);
    const body = { ...base, max_tokens: 150, session: { id: "s", on_disconnect: "continue", if_turn: 0 } };
    const key = { "idempotency-key": "once" };
    const seen = await readAndVanish(await requestRaw(server.port, body, key), 5);
    const rest = await server.post("/v1/chat/completions", body, { ...key, "last-event-id": seen.at(-1)!.id });
    const fromStart = await server.post("/v1/chat/completions", body, key);
    assert.equal(server.engine.sessions.describe("s").busy, true, "it is still running");
    assert.equal(rest.headers.get("idempotent-replayed"), "true");
    const [tail, all] = (await Promise.all([rest.text(), fromStart.text()])).map(sseEvents);
    assert.deepEqual([...seen, ...tail!], all);
    assert.equal(all!.at(-1)!.data, "[DONE]");
    assert.equal(server.engine.sessions.describe("s").turn, 1);
    assert.equal(server.backend.passes.length, 150);
  });

  test("a client that vanishes before the first token takes its request with it", async () => {
    await using server = served(150);
    const socket = await requestRaw(server.port, { ...base, max_tokens: 100, session: "s" });
    await sleep(75);
    socket.resetAndDestroy();
    await sleep(400);
    assert.ok(server.backend.passes.length <= 2, `${server.backend.passes.length} passes`);
    assert.deepEqual(server.engine.sessions.list(), []);
  });

  test("a body is as large as the app allows, not the runtime", async () => {
    await using server = served(0);
    const response = await fetch(`http://127.0.0.1:${server.port}/v1/sessions/import`, {
      method: "POST",
      headers: { "content-type": "application/octet-stream" },
      body: new Uint8Array(129 * 2 ** 20),
    });
    assert.deepEqual([response.status, (await response.json()).error.code], [400, "snapshot_corrupt"]);
  });

  test("one that reads a byte a second waits for itself, and holds nobody up", async () => {
    await using server = served(0, 100_000);
    const { engine, backend } = server;
    // Far more than the buffers of two sockets take.
    const slow = await requestRaw(server.port, { ...base, max_tokens: 60_000, session: "slow" });
    const taken: Uint8Array[] = [];
    // Let go of before the server, which ends after its answers do.
    using drip = readSlowly(slow, taken);
    for (let passes = -1; passes !== backend.passes.length;) {
      passes = backend.passes.length;
      await sleep(600);
    }
    assert.ok(backend.passes.length > 10, `${backend.passes.length} passes`);
    const others = await Promise.all([1, 2, 3].map(async (i) => {
      const body = { ...base, max_tokens: 50, session: `other ${i}` };
      return sseEvents(await (await server.post("/v1/chat/completions", body)).text());
    }));
    for (const events of others) assert.equal(events.at(-1)!.data, "[DONE]");
    // A socket's window may open once more in the meantime, but no further than buffers reach.
    const passes = backend.passes.length - 3 * 50;
    assert.ok(passes < 40_000, `the slow one took ${passes} passes`);
    assert.ok(taken.length > 0, "it reads, if slowly");
    drip.stop();
    slow.destroy();
    for (let tries = 0; engine.sessions.list().some(({ busy }) => busy); tries++) {
      assert.ok(tries < 200, "nobody waits for it any more");
      await sleep(20);
    }
    const kvBytes = engine.sessions.list().reduce((sum, { hotBytes }) => sum + hotBytes, 0);
    assert.equal(engine.sessions.stats().hotBytes, kvBytes);
  });
});
