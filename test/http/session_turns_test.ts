import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { get, post } from "./client.ts";
import { app, base, json, turn, user } from "./session_client.ts";

describe("turns over HTTP", () => {
  test("append sends only what is new; regenerate answers again", async () => {
    const { app: a } = app();
    const first = await turn(a, "A");
    const second = await turn(a, "B");
    assert.equal(second.hearth.session.turn, 2);
    assert.ok(second.usage.prompt_tokens > first.usage.prompt_tokens + 4);
    const session = { id: "s", mode: "regenerate" };
    const again = await json(post(a, "/v1/chat/completions", { ...base, session }));
    assert.deepEqual([again.status, again.body.hearth.session.turn], [200, 2]);
    assert.deepEqual(again.body.choices[0].message, second.choices[0].message);
    const plain = await post(a, "/v1/generate", { ...base, session });
    assert.equal(await plain.text(), second.choices[0].message.content);
    assert.equal((await json(get(a, "/v1/sessions/s"))).body.turn, 2);
  });

  test("if_turn is 412 where it does not hold, with the turn", async () => {
    const { app: a } = app();
    await turn(a, "A");
    const session = { id: "s", mode: "append", if_turn: 0 };
    const { status, headers, body } = await json(post(a, "/v1/generate", { ...base, messages: user("B"), session }));
    assert.deepEqual([status, body.error.code, body.error.turn], [412, "turn_mismatch", 1]);
    assert.equal(headers.get("x-should-retry"), "false");
  });

  test("if_turn without the cache is 400: nothing would hold it", async () => {
    const { app: a } = app();
    await turn(a, "A");
    for (const off of [{ cache: "off" }, { use_cache: false }]) {
      for (const if_turn of [1, 99]) {
        const body = { ...base, messages: user("B"), session: { id: "s", if_turn }, ...off };
        for (const path of ["/v1/chat/completions", "/v1/generate", "/v1/sessions/s/plan"]) {
          const { status, body: { error } } = await json(post(a, path, body));
          assert.deepEqual([status, error.param], [400, "cache"], path);
          assert.match(error.message, new RegExp(`session.if_turn ${if_turn} without the cache`));
        }
      }
    }
    assert.equal((await json(get(a, "/v1/sessions/s"))).body.turn, 1);
  });

  test("on_busy: reject, queue, supersede", async () => {
    const { app: a, engine } = app({ delayMs: 5 });
    await turn(a, "A");
    const ask = (on_busy: string, max_tokens = 3) =>
      json(post(a, "/v1/chat/completions", {
        ...base,
        max_tokens,
        messages: user("B"),
        session: { id: "s", mode: "append", on_busy },
      }));
    const running = ask("reject", 20);
    const [rejected, queued] = await Promise.all([ask("reject"), ask("queue")]);
    assert.equal(rejected.body.error.code, "session_busy");
    assert.deepEqual([(await running).status, queued.status, queued.body.hearth.session.turn], [200, 200, 3]);
    assert.ok(queued.body.hearth.timings.queue_ms > 10, JSON.stringify(queued.body.hearth.timings));

    const old = ask("reject", 200);
    await new Promise((resolve) => setTimeout(resolve, 30));
    const superseding = await ask("supersede");
    assert.deepEqual([superseding.status, superseding.body.hearth.session.turn], [200, 4]);
    assert.deepEqual([(await old).status, (await old).body.error.code], [409, "turn_superseded"]);
    assert.equal(engine.sessions.describe("s").busy, false);
  });

  test("the session's name may come by header, with how the turn goes in the body", async () => {
    const { app: a } = app();
    await turn(a, "A");
    const body = { ...base, messages: user("B"), session: { mode: "append" } };
    const { status } = await post(a, "/v1/generate", body, { "x-session-id": "s" });
    assert.equal(status, 200);
    const nameless = await json(post(a, "/v1/generate", body));
    assert.deepEqual([nameless.status, nameless.body.error.param], [400, "session.id"]);
    const long = await json(post(a, "/v1/generate", { prompt: "x" }, { "x-session-id": "x".repeat(300) }));
    assert.deepEqual([long.status, long.body.error.param], [400, "x-session-id"]);
    const cut = await json(post(a, "/v1/generate", { prompt: "x" }, { "x-session-id": "50%" }));
    assert.deepEqual([cut.status, cut.body.error.param], [400, "x-session-id"]);
  });

  test("fields of a session that mean nothing are 400 with their name", async () => {
    const { app: a } = app();
    const wrong = {
      mode: "prepend",
      if_turn: -1,
      on_busy: "wait",
      on_abort: "commit",
      on_disconnect: "stay",
      ttl_s: 0,
    };
    for (const [field, value] of Object.entries(wrong)) {
      const session = { id: "s", [field]: value };
      const { status, body } = await json(post(a, "/v1/chat/completions", { messages: user("x"), session }));
      assert.deepEqual([status, body.error.param], [400, `session.${field}`]);
    }
  });
});
