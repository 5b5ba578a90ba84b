import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { type AppOptions, createApp } from "../../src/http/app.ts";
import { fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";
import { type App, get, post, readEvents, send, sseEvents, textOf } from "./client.ts";

const messages = [{ role: "user", content: "Hello there" }];
const base = { messages, ignore_eos: true, stream: true };

function app(options: FakeEngineOptions = {}, appOptions: AppOptions = {}) {
  const fake = fakeEngine(options);
  return { ...fake, app: createApp(fake.engine, appOptions) };
}

/** Begins a stream on session `s`, reads some events of it and leaves. */
async function readAndLeave(a: App, count: number, body: object) {
  const response = await post(a, "/v1/chat/completions", { ...base, ...body });
  const path = `/v1/streams/${response.headers.get("x-stream-id")}`;
  return { path, seen: (await readEvents(response, count)).slice(0, count) };
}

const going = { session: { id: "s", on_disconnect: "continue" } };
const code = async (response: Response) => `${response.status} ${(await response.json()).error?.code}`;

/** Waits until it holds. */
async function until(holds: () => boolean) {
  for (let tries = 0; !holds(); tries++) {
    assert.ok(tries < 500, "waited too long");
    await sleep(5);
  }
}

describe("event ids", () => {
  test("number all events of a stream, the last ones too", async () => {
    const { app: a } = app();
    const response = await post(a, "/v1/chat/completions", { ...base, max_tokens: 3 });
    const events = sseEvents(await response.text());
    const id = events[0]!.data.id;
    assert.equal(response.headers.get("x-stream-id"), id);
    assert.deepEqual(events.map((event) => event.id), events.map((_, i) => `${id}.${i}`));
    assert.equal(events.at(-1)!.data, "[DONE]");
  });
});

describe("GET /v1/streams/:id", () => {
  test("goes on after the event that was seen last; the turn is there once", async () => {
    const { app: a, engine } = app();
    const whole = textOf(sseEvents(await (await post(a, "/v1/chat/completions", { ...base, max_tokens: 20 })).text()));
    const { path, seen } = await readAndLeave(a, 4, { ...going, max_tokens: 20 });
    const response = await get(a, path, { "last-event-id": seen.at(-1)!.id });
    assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
    const rest = sseEvents(await response.text());
    assert.equal(textOf([...seen, ...rest]), whole);
    assert.equal(rest[0]!.id, seen[0]!.id.replace(/0$/, "4"));
    assert.equal(rest.at(-1)!.data, "[DONE]");
    assert.equal(rest.at(-2)!.data.hearth.session.turn, 1);
    assert.equal(engine.sessions.describe("s").turn, 1);

    const again = sseEvents(await (await get(a, path)).text());
    assert.equal(textOf(again), whole);
    assert.equal((await get(a, path, { "last-event-id": again.at(-1)!.id })).status, 204);
  });

  test("a stream that nobody resumes is committed all the same, if it is to go on", async () => {
    const { app: a, engine } = app();
    await readAndLeave(a, 2, { ...going, max_tokens: 30 });
    await until(() => engine.sessions.list().some(({ turn, busy }) => turn === 1 && !busy));
    await readAndLeave(a, 2, { session: "t", max_tokens: 30 });
    await until(() => !engine.sessions.list().some(({ id }) => id === "t"));
  });

  test("a stream that was cancelled says so at its end", async () => {
    const { app: a, engine, backend } = app({ delayMs: 1 });
    const { path, seen } = await readAndLeave(a, 3, { session: "s", max_tokens: 500 });
    const rest = sseEvents(await (await get(a, path, { "last-event-id": seen.at(-1)!.id })).text());
    assert.equal(rest.at(-1)!.data.error.code, "client_closed_request");
    assert.ok(backend.passes.length < 20);
    assert.deepEqual(engine.sessions.list(), []);
  });

  test("wrong ids are 400, lost events 410 with where to go on, other streams 404", async () => {
    const limits = { keepBytes: 2000, windowMs: 1000 };
    const { app: a } = app({}, { streams: limits });
    const { path, seen } = await readAndLeave(a, 3, { ...going, max_tokens: 60 });
    for (const id of ["x", `${seen[0]!.id}x`, seen[0]!.id.replace(/0$/, "999")]) {
      assert.equal(await code(await get(a, path, { "last-event-id": id })), "400 invalid_event_id", id);
    }
    const whole = sseEvents(await (await get(a, path, { "last-event-id": seen.at(-1)!.id })).text());
    const lost = await get(a, path, { "last-event-id": seen.at(-1)!.id });
    const { error } = await lost.json();
    assert.deepEqual([lost.status, error.code], [410, "stream_offset_lost"]);
    const kept = sseEvents(await (await get(a, path, { "last-event-id": error.resume_after })).text());
    assert.ok(kept.length > 2);
    assert.ok(error.snapshot.length > 0);
    assert.equal(error.snapshot + textOf(kept), textOf([...seen, ...whole]), "with the snapshot nothing is missing");
    assert.deepEqual(kept, whole.slice(-kept.length));
    assert.equal(await code(await get(a, path, { "last-event-id": "chatcmpl-other.3" })), "410 stream_offset_lost");
    assert.equal(await code(await get(a, "/v1/streams/chatcmpl-other")), "404 stream_not_found");
  });

  test("after its window a stream is 404", async () => {
    const { app: a } = app({}, { streams: { windowMs: 300 } });
    const { path } = await readAndLeave(a, 2, { ...going, max_tokens: 5 });
    assert.equal(sseEvents(await (await get(a, path)).text()).at(-1)!.data, "[DONE]");
    await sleep(500);
    assert.equal(await code(await get(a, path)), "404 stream_not_found");
  });

  test("without readers it runs on to its bound, waits, and goes on where one comes back", async () => {
    const { app: a, backend, engine } = app({}, { streams: { aheadBytes: 4000 } });
    const { path, seen } = await readAndLeave(a, 2, { ...going, max_tokens: 200 });
    await sleep(100);
    const passes = backend.passes.length;
    assert.ok(passes > 5 && passes < 60, `${passes} passes`);
    assert.equal(engine.sessions.describe("s").busy, true);
    const rest = sseEvents(await (await get(a, path, { "last-event-id": seen.at(-1)!.id })).text());
    assert.equal(rest.at(-1)!.data, "[DONE]");
    assert.equal(engine.sessions.describe("s").turn, 1);
  });

  test("one that waits longer than the window is cancelled, and its session free", async () => {
    const { app: a, engine } = app({}, { streams: { aheadBytes: 2000, windowMs: 50 } });
    await post(a, "/v1/sessions", { id: "s" });
    await readAndLeave(a, 2, { ...going, max_tokens: 200 });
    await until(() => !engine.sessions.describe("s").busy);
    assert.equal(engine.sessions.describe("s").turn, 0);
  });

  test("two readers get the same, each at its own pace", async () => {
    const { app: a } = app({ delayMs: 1 }, { streams: { aheadBytes: 3000, keepBytes: 1000 } });
    const response = await post(a, "/v1/chat/completions", { ...base, ...going, max_tokens: 40 });
    const fast = response.text();
    const slow = await get(a, `/v1/streams/${response.headers.get("x-stream-id")}`);
    const bodies: string[] = [];
    for await (const part of slow.body!.pipeThrough(new TextDecoderStream())) {
      bodies.push(part);
      await sleep(3);
    }
    assert.deepEqual(sseEvents(bodies.join("")), sseEvents(await fast));
  });
});

describe("HEAD /v1/streams/:id", () => {
  test("has the status and headers of GET, and reads nothing", async () => {
    const { app: a } = app({}, { streams: { keepBytes: 2000 } });
    const { path, seen } = await readAndLeave(a, 3, { ...going, max_tokens: 60 });
    const heads = async (id?: string) => {
      const headers: Record<string, string> = id === undefined ? {} : { "last-event-id": id };
      const [head, body] = [await send(a, "HEAD", path, undefined, { headers }), await get(a, path, headers)];
      assert.deepEqual([head.status, await head.text()], [body.status, ""]);
      if (head.status === 200) assert.deepEqual([...head.headers], [...body.headers]);
      return { status: head.status, events: sseEvents(await body.text()) };
    };
    const { events } = await heads(seen.at(-1)!.id);
    const statuses = [];
    for (const id of [events.at(-2)!.id, events.at(-1)!.id, undefined, "x"]) statuses.push((await heads(id)).status);
    assert.deepEqual(statuses, [200, 204, 410, 400]);
    assert.equal((await send(a, "HEAD", "/v1/streams/chatcmpl-other")).status, 404);
  });

  test("is no reader: an answer whose only client leaves is cancelled", async () => {
    const { app: a, engine } = app();
    const response = await post(a, "/v1/chat/completions", { ...base, session: "s", max_tokens: 500 });
    await send(a, "HEAD", `/v1/streams/${response.headers.get("x-stream-id")}`);
    await readEvents(response, 2);
    await until(() => engine.sessions.list().length === 0);
  });
});

describe("DELETE /v1/streams/:id", () => {
  test("stops one that nobody reads", async () => {
    const { app: a, engine, backend } = app({ delayMs: 2 });
    const { path } = await readAndLeave(a, 2, { ...going, max_tokens: 1000 });
    const stopped = await (await send(a, "DELETE", path)).json();
    assert.deepEqual([stopped.object, stopped.complete], ["stream.stopped", false]);
    const passes = backend.passes.length;
    await sleep(30);
    assert.equal(backend.passes.length, passes);
    assert.deepEqual(engine.sessions.list(), []);
    const { error } = sseEvents(await (await get(a, path)).text()).at(-1)!.data;
    assert.equal(error.code, "client_closed_request");
    assert.equal(await code(await send(a, "DELETE", "/v1/streams/no")), "404 stream_not_found");
  });

  test("of a session that is deleted nothing is kept", async () => {
    const { app: a } = app();
    const { path } = await readAndLeave(a, 2, { ...going, max_tokens: 5 });
    assert.equal((await get(a, path)).status, 200);
    await send(a, "DELETE", "/v1/sessions/s");
    assert.equal(await code(await get(a, path)), "404 stream_not_found");
  });

  test("of a session that a capsule takes the place of nothing is kept", async () => {
    const { app: a } = app();
    await post(a, "/v1/sessions", { id: "s" });
    const capsule = new Uint8Array(await (await post(a, "/v1/sessions/s/export", {})).arrayBuffer());
    const { path } = await readAndLeave(a, 2, { ...going, max_tokens: 5 });
    assert.equal(sseEvents(await (await get(a, path)).text()).at(-1)!.data, "[DONE]");
    const headers = { "content-type": "application/octet-stream" };
    const taken = await send(a, "POST", "/v1/sessions/import?replace=true", capsule, { headers });
    assert.equal(taken.status, 201);
    assert.equal(await code(await get(a, path)), "404 stream_not_found");
  });
});
