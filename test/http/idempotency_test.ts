import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { StorageError } from "../../src/errors.ts";
import { type AppOptions, createApp } from "../../src/http/app.ts";
import { durableEngine } from "../fakes/durable_engine.ts";
import { fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";
import { collected } from "./collected.ts";
import { type App, post, readEvents, send, sseEvents, textOf } from "./client.ts";

const messages = [{ role: "user", content: "Hello there" }];
const body = { messages, ignore_eos: true, max_tokens: 6, session: { id: "s", mode: "append", if_turn: 0 } };
const streaming = { ...body, stream: true };
const key = { "idempotency-key": "k" };
const chat = (a: App, what: unknown, headers: Record<string, string> = key) =>
  post(a, "/v1/chat/completions", what, headers);

function app(options: FakeEngineOptions = {}, appOptions: AppOptions = {}) {
  const fake = fakeEngine(options);
  return { ...fake, app: createApp(fake.engine, appOptions) };
}

const code = async (response: Response) => `${response.status} ${(await response.json()).error?.code}`;

/** Waits until it holds. */
async function until(holds: () => boolean) {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 500, "waited too long");
    await sleep(5);
  }
}

describe("Idempotency-Key", () => {
  test("the same request again has the same answer, and runs nothing", async () => {
    const { app: a, backend, engine } = app();
    for (const [path, what] of [["/v1/chat/completions", body], ["/v1/generate", { ...body, session: "t" }]] as const) {
      const headers = { "idempotency-key": path };
      const first = await post(a, path, what, headers);
      const answer = await first.text();
      const passes = backend.passes.length;
      const again = await post(a, path, what, headers);
      assert.equal(await again.text(), answer);
      assert.deepEqual([first, again].map(({ headers }) => headers.get("idempotent-replayed")), [null, "true"]);
      for (const name of ["content-type", "server-timing", "x-session-id"]) {
        assert.equal(again.headers.get(name), first.headers.get(name));
      }
      assert.equal(backend.passes.length, passes);
    }
    assert.deepEqual(engine.sessions.list().map(({ turn }) => turn), [1, 1]);
  });

  test("a stream comes again event by event, or from where it was lost", async () => {
    const { app: a } = app();
    const first = sseEvents(await (await chat(a, streaming)).text());
    assert.equal(first.at(-1)!.data, "[DONE]");
    assert.deepEqual(sseEvents(await (await chat(a, streaming)).text()), first);
    const rest = await chat(a, streaming, { ...key, "last-event-id": first[2]!.id });
    assert.deepEqual(sseEvents(await rest.text()), first.slice(3));
  });

  test("another request with the key is 422", async () => {
    const { app: a } = app();
    await (await chat(a, body)).text();
    const other = { ...body, max_tokens: 7 };
    for (
      const response of [
        chat(a, other),
        chat(a, streaming),
        post(a, "/v1/generate", body, key),
        chat(a, body, { ...key, "x-session-id": "t" }),
      ]
    ) {
      const { status, headers } = await response;
      assert.deepEqual([status, headers.get("x-should-retry")], [422, "false"]);
    }
    assert.equal(await code(await chat(a, other)), "422 idempotency_key_reused");
    assert.equal((await chat(a, body, { "idempotency-key": "x".repeat(256) })).status, 400);
  });

  test("while it runs, the same request joins it", async () => {
    const { app: a, engine } = app({ delayMs: 3 });
    const whole = await Promise.all([chat(a, body), chat(a, body)]);
    const [one, other] = await Promise.all(whole.map((response) => response.json()));
    assert.deepEqual(one, other);
    assert.equal(engine.sessions.describe("s").turn, 1);

    const next = { ...streaming, session: { id: "s", mode: "append" } };
    const started = await chat(a, next, { "idempotency-key": "2" });
    const joined = await chat(a, next, { "idempotency-key": "2" });
    const events = await Promise.all([started, joined].map((response) => response.text()));
    assert.deepEqual(sseEvents(events[0]!), sseEvents(events[1]!));
    assert.equal(sseEvents(events[0]!).at(-1)!.data, "[DONE]");
    assert.equal(engine.sessions.describe("s").turn, 2);
  });

  test("one of two that leaves does not end it, the last one does", async () => {
    const { app: a, engine } = app({ delayMs: 5 });
    const [first, second] = [new AbortController(), new AbortController()];
    const ask = ({ signal }: AbortController, extra: object = {}) =>
      send(a, "POST", "/v1/chat/completions", { ...body, ...extra }, { headers: key, signal });
    const leaving = ask(first).catch(() => {});
    const staying = ask(second);
    await sleep(12);
    first.abort();
    await leaving;
    assert.equal((await staying).status, 200);

    const long = { max_tokens: 500, session: "t" };
    const headers = { "idempotency-key": "2" };
    const both = [new AbortController(), new AbortController()].map((controller) => ({
      controller,
      answer: send(a, "POST", "/v1/chat/completions", { ...body, ...long }, { headers, signal: controller.signal })
        .catch(() => {}),
    }));
    await sleep(20);
    for (const { controller } of both) controller.abort();
    await Promise.all(both.map(({ answer }) => answer));
    await until(() => !engine.sessions.list().some(({ id }) => id === "t"));
    // Nothing came of it, so the key is free.
    const again = await chat(a, { ...body, ...long, max_tokens: 2 }, headers);
    assert.deepEqual([again.status, again.headers.get("idempotent-replayed")], [200, null]);
  });

  test("who comes back while the answer that it left is ending gets a whole one", async () => {
    const { app: a, engine } = app({ delayMs: 30 });
    const leaving = new AbortController();
    const left = await send(a, "POST", "/v1/chat/completions", streaming, { headers: key, signal: leaving.signal });
    const reader = left.body!.getReader();
    await reader.read();
    const inPass = reader.read();
    leaving.abort();
    const again = sseEvents(await (await chat(a, streaming)).text());
    await inPass;
    assert.equal(again.at(-1)!.data, "[DONE]");
    assert.notEqual(again[0]!.data.id, left.headers.get("x-stream-id"));
    assert.equal(engine.sessions.describe("s").turn, 1);
  });

  test("what failed may be tried again", async () => {
    const { app: a, backend, engine } = app();
    const early = { ...body, session: { id: "s", mode: "append", if_turn: 1 } };
    assert.equal(await code(await chat(a, early)), "404 session_not_found");
    await (await chat(a, { ...body, session: "s" }, {})).text();
    assert.equal((await chat(a, early)).status, 200);

    const error = console.error;
    console.error = () => {};
    const third = { ...streaming, session: { id: "s", mode: "append", if_turn: 2 } };
    backend.failNext = new Error("boom");
    const failed = sseEvents(await (await chat(a, third, { "idempotency-key": "3" })).text());
    console.error = error;
    assert.equal(failed.at(-1)!.data.error.type, "server_error");
    const lost = await chat(a, third, { "idempotency-key": "3", "last-event-id": failed[0]!.id });
    assert.equal(await code(lost), "410 stream_offset_lost");
    const done = sseEvents(await (await chat(a, third, { "idempotency-key": "3" })).text());
    assert.equal(done.at(-1)!.data, "[DONE]");
    assert.equal(engine.sessions.describe("s").turn, 3);
  });

  test("what was kept of an aborted turn is not appended twice", async () => {
    const { app: a, engine } = app({ delayMs: 2 });
    const session = { id: "s", mode: "append", if_turn: 0, on_abort: "keep_partial" };
    const partial = { ...streaming, max_tokens: 300, session };
    const seen = await readEvents(await chat(a, partial), 4);
    const again = sseEvents(await (await chat(a, partial)).text());
    assert.deepEqual(again.slice(0, seen.length), seen);
    assert.equal(again.at(-1)!.data.error.code, "client_closed_request");
    const { turn, messages } = engine.sessions.inspect("s");
    assert.deepEqual([turn, messages.length], [1, 2]);
  });

  test("what was refused may be tried again, also where a part is to be kept: there is none", async () => {
    const { app: a, engine } = app({ kvBudgetBytes: 3000 });
    const append = { id: "s", mode: "append", on_abort: "keep_partial" };
    const busy = () => chat(a, { ...body, session: append }, { "idempotency-key": "busy" });
    const full = () => chat(a, { ...body, session: { ...append, id: "t", if_turn: 0 }, max_tokens: 200 });
    // As long as nobody reads on it runs, and holds what it reserved.
    const running = await chat(a, { ...streaming, session: "s", max_tokens: 100 }, {});
    assert.equal(await code(await busy()), "409 session_busy");
    assert.equal(await code(await full()), "503 out_of_memory");
    await running.text();
    assert.deepEqual([(await busy()).status, (await full()).status], [200, 200]);
    assert.deepEqual(engine.sessions.list().map(({ id, turn }) => [id, turn]), [["t", 1], ["s", 2]]);
  });

  test("what was kept of an answer that is refused in the end is not appended twice", async () => {
    for (const [path, status] of [["/v1/chat/completions", 499], ["/v1/generate", 200]] as const) {
      const { app: a, backend, engine } = app({ delayMs: 5 });
      const session = { id: "s", mode: "append", if_turn: 0, on_abort: "keep_partial" };
      const partial = { ...body, max_tokens: 300, session };
      const leaving = new AbortController();
      const left = send(a, "POST", path, partial, { headers: key, signal: leaving.signal })
        .then((response) => response.text())
        .catch(() => {});
      await until(() => backend.passes.length > 3);
      leaving.abort();
      await left;
      await until(() => !engine.sessions.describe("s").busy);
      assert.equal((await post(a, path, partial, key)).status, status);
      assert.deepEqual(engine.sessions.inspect("s").turns.map(({ finishReason }) => finishReason), ["aborted"]);
    }
  });

  test("keeps so many answers, so many bytes, for so long", async () => {
    const ask = async (a: App, name: string) => {
      const response = await chat(a, { ...body, session: undefined }, { "idempotency-key": name });
      await response.text();
      return response.headers.has("idempotent-replayed");
    };
    for (const idempotency of [{ maxEntries: 2 }, { maxBytes: 3500 }, { ttlMs: 1 }]) {
      const { app: a } = app({}, { idempotency });
      for (const name of ["1", "2", "3"]) assert.equal(await ask(a, name), false);
      if (idempotency.ttlMs) await sleep(20);
      else assert.equal(await ask(a, "3"), true);
      assert.equal(await ask(a, "1"), false, JSON.stringify(idempotency));
    }
  });

  test("a stream comes again whole that is longer than one to resume may be, up to half of what is kept", async () => {
    for (const [maxBytes, status] of [[60_000, 200], [30_000, 410]] as const) {
      const { app: a, engine } = app({}, { streams: { keepBytes: 2000, aheadBytes: 2000 }, idempotency: { maxBytes } });
      const long = { ...streaming, max_tokens: 60 };
      const first = await (await chat(a, long)).text();
      assert.ok(first.length > 15_000 && first.length < 30_000, `${first.length} bytes`);
      const again = await chat(a, long);
      assert.equal(again.status, status);
      const text = await again.text();
      if (status === 200) assert.equal(text, first);
      else {
        const { code, snapshot, resume_after } = JSON.parse(text).error;
        const rest = await chat(a, long, { ...key, "last-event-id": resume_after });
        const events = sseEvents(first);
        assert.equal(code, "stream_offset_lost");
        assert.equal(snapshot + textOf(sseEvents(await rest.text())), textOf(events));
      }
      assert.equal(engine.sessions.describe("s").turn, 1);
    }
  });

  test("keeps answers, not their requests: those are not counted", async () => {
    const { app: a } = app();
    const refs: WeakRef<object>[] = [];
    const ask = (name: number) => {
      const request = new Request("http://localhost/v1/chat/completions", {
        method: "POST",
        headers: { host: "localhost", "content-type": "application/json", "idempotency-key": `${name}` },
        body: JSON.stringify({ messages, max_tokens: 1, stream: name % 2 === 0 }),
      });
      refs.push(new WeakRef(request));
      return a.request(request);
    };
    for (let name = 0; name < 40; name++) await (await ask(name)).text();
    assert.ok(await collected(refs));
    assert.equal((await ask(0)).headers.get("idempotent-replayed"), "true");
  });

  test("keeps so many for each tenant: one that has many does not push out another's", async () => {
    const apiKeys = ["ada", "bob"].map((tenant) => ({ tenant, key: `${tenant}-key` }));
    for (const idempotency of [{ maxEntries: 2 }, { maxBytes: 3500 }]) {
      const { app: a, backend } = app({}, { idempotency, apiKeys });
      const ask = async (tenant: string, name: string) => {
        const headers = { authorization: `Bearer ${tenant}-key`, "idempotency-key": name };
        const response = await chat(a, { ...body, session: undefined }, headers);
        await response.text();
        return response.headers.has("idempotent-replayed");
      };
      for (const name of ["1", "2"]) assert.equal(await ask("ada", name), false);
      for (let name = 1; name <= 20; name++) assert.equal(await ask("bob", `${name}`), false);
      const passes = backend.passes.length;
      for (const name of ["1", "2"]) assert.equal(await ask("ada", name), true, JSON.stringify(idempotency));
      assert.deepEqual([await ask("bob", "20"), backend.passes.length], [true, passes]);
      assert.equal(await ask("bob", "18"), false, "its own limit holds");
    }
  });

  test("an answer of a session that is deleted is not given again", async () => {
    const { app: a } = app();
    await (await chat(a, body)).text();
    await send(a, "DELETE", "/v1/sessions/s");
    const again = await chat(a, body);
    assert.deepEqual([again.status, again.headers.get("idempotent-replayed")], [200, null]);
  });

  test("an answer of the session that begins anew while the disk still deletes the old one is", async () => {
    const folder = await mkdtemp(join(tmpdir(), "hearth-idempotency-"));
    try {
      const { engine, files } = await durableEngine(folder, { vocabSize: 2000 });
      const a = createApp(engine);
      const disk = Promise.withResolvers<void>();
      const remove = files.remove.bind(files);
      files.remove = (key) => remove(key).then(() => disk.promise);
      await (await chat(a, body)).text();
      const deleted = send(a, "DELETE", "/v1/sessions/s");
      await until(() => engine.sessions.list().length === 0);
      const answer = await (await chat(a, body)).text();
      disk.resolve();
      assert.equal((await deleted).status, 200);
      const again = await chat(a, body);
      assert.deepEqual([again.headers.get("idempotent-replayed"), await again.text()], ["true", answer]);

      // The session is gone all the same, and so are its answers.
      files.remove = () => Promise.reject(new StorageError("Cannot delete the session on disk: a test"));
      assert.equal(await code(await send(a, "DELETE", "/v1/sessions/s")), "507 storage_failed");
      assert.deepEqual(engine.sessions.list(), []);
      assert.equal((await chat(a, body)).headers.get("idempotent-replayed"), null);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
