import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";
import { type App, get, post, send } from "./client.ts";

const user = (content: string) => [{ role: "user", content }];
const base = { max_tokens: 4, ignore_eos: true };

function app(options: FakeEngineOptions = {}) {
  const fake = fakeEngine(options);
  return { ...fake, app: createApp(fake.engine) };
}

/** One turn of session `s` by appending, unless the body says otherwise. */
async function turn(app: App, content: string, body: object = {}) {
  const session = { id: "s", mode: "append", ...(await get(app, "/v1/sessions/s")).status === 404 && { if_turn: 0 } };
  const response = await post(app, "/v1/chat/completions", { ...base, messages: user(content), session, ...body });
  assert.equal(response.status, 200, await response.clone().text());
  return await response.json();
}

const json = async (response: Promise<Response>) => {
  const answered = await response;
  return { status: answered.status, headers: answered.headers, body: await answered.json() };
};

const code = async (response: Promise<Response>) => {
  const { status, body } = await json(response);
  return `${status} ${body.error?.code}`;
};

describe("POST and GET /v1/sessions", () => {
  test("makes, lists, inspects and deletes", async () => {
    const { app: a, backend } = app();
    const made = await json(post(a, "/v1/sessions", { id: "s", ttl_s: 60 }));
    assert.deepEqual([made.status, made.headers.get("location")], [201, "/v1/sessions/s"]);
    const now = Date.now() / 1000;
    const { created_at, expires_at, ...rest } = made.body;
    assert.ok(Math.abs(created_at - now) < 5 && Math.abs(expires_at - now - 60) < 5);
    assert.deepEqual(rest, {
      id: "s",
      object: "session",
      turn: 0,
      tokens: 0,
      state: "cold",
      cached_tokens: 0,
      bytes: { hot: 0, parked: 0 },
      busy: false,
    });

    const answered = await turn(a, "Hello");
    const { body } = await json(get(a, "/v1/sessions/s?ids=true"));
    assert.deepEqual([body.turn, body.state, body.tokens], [1, "hot", body.ids.length]);
    assert.equal(body.cached_tokens, body.tokens - 1);
    assert.equal(body.bytes.hot, backend.kvBytes(body.cached_tokens));
    assert.deepEqual(body.messages, [...user("Hello"), {
      role: "assistant",
      content: answered.choices[0].message.content,
    }]);
    const [only] = body.turns;
    assert.deepEqual([only.end, only.messages, only.finish_reason], [body.tokens, 2, "length"]);
    assert.equal(only.prompt_end, answered.usage.prompt_tokens);
    assert.equal("ids" in (await json(get(a, "/v1/sessions/s"))).body, false);

    assert.deepEqual((await json(get(a, "/v1/sessions"))).body.data.map(({ id }: { id: string }) => id), ["s"]);
    assert.deepEqual((await json(send(a, "DELETE", "/v1/sessions/s"))).body, {
      id: "s",
      object: "session.deleted",
      deleted: true,
    });
    assert.equal(backend.caches.size, 0);
    assert.equal(await code(get(a, "/v1/sessions/s")), "410 session_deleted");
    assert.equal(await code(send(a, "DELETE", "/v1/sessions/s")), "410 session_deleted");
    assert.deepEqual((await json(get(a, "/v1/sessions"))).body, { object: "list", data: [], has_more: false });
  });

  test("names a session itself where none is given, and refuses a name twice", async () => {
    const { app: a } = app();
    const { body } = await json(post(a, "/v1/sessions", {}));
    assert.match(body.id, /^[0-9a-f-]{36}$/);
    assert.equal(await code(post(a, "/v1/sessions", { id: body.id })), "409 session_exists");
  });

  test("lists page by page, most recently used first", async () => {
    const { app: a } = app();
    for (const id of ["a", "b", "c"]) await post(a, "/v1/sessions", { id });
    const page = async (query: string) => {
      const { body } = await json(get(a, `/v1/sessions${query}`));
      return [body.data.map(({ id }: { id: string }) => id).join(""), body.has_more];
    };
    assert.deepEqual(await page("?limit=2"), ["cb", true]);
    assert.deepEqual(await page("?limit=2&after=b"), ["a", false]);
    for (const query of ["?limit=0", "?limit=x", "?after=z"]) {
      assert.equal((await get(a, `/v1/sessions${query}`)).status, 400, query);
    }
  });

  test("ids may be in any script, and have slashes", async () => {
    const { app: a } = app();
    const ids = ["日記/1", "a b", "import", "/", "%2F", "...", "50%", "café", "caf%C3%A9"];
    for (const id of ids) {
      const made = await json(post(a, "/v1/sessions", { id }));
      assert.equal(made.body.id, id);
      assert.equal((await json(get(a, made.headers.get("location")!))).body.id, id);
      const response = await post(a, "/v1/generate", { ...base, prompt: "x", session: id });
      assert.equal(response.status, 200);
      const header = response.headers.get("x-session-id")!;
      assert.equal(header, /[^ -~]|%/.test(id) ? encodeURIComponent(id) : id);
      await response.text();
      // What an answer calls it names the same session in a request.
      const again = await post(a, "/v1/generate", { ...base, prompt: "x" }, { "x-session-id": header });
      assert.equal(again.headers.get("x-session-id"), header);
      await again.text();
      const path = `/v1/sessions/${encodeURIComponent(id)}/plan`;
      assert.equal((await json(post(a, path, { ...base, prompt: "x" }))).body.session, id);
    }
    assert.equal((await json(get(a, "/v1/sessions"))).body.data.length, ids.length);
  });

  test("an id that no URL can have is refused, wherever it is given", async () => {
    const { app: a } = app();
    await post(a, "/v1/sessions", { id: "s" });
    for (const id of [".", ".."]) {
      const requests: [Promise<Response>, string][] = [
        [post(a, "/v1/sessions", { id }), "id"],
        [post(a, "/v1/sessions/s/fork", { id }), "id"],
        [post(a, "/v1/generate", { ...base, prompt: "x", session: id }), "session"],
        [post(a, "/v1/generate", { ...base, prompt: "x" }, { "x-session-id": id }), "x-session-id"],
      ];
      for (const [request, param] of requests) {
        const { status, body } = await json(request);
        assert.deepEqual([status, body.error.param], [400, param], id);
      }
    }
    assert.equal((await json(get(a, "/v1/sessions"))).body.data.length, 1);
  });

  test("a session that expired is 410", async () => {
    const { app: a } = app();
    await post(a, "/v1/sessions", { id: "s", ttl_s: 0.01 });
    await new Promise((resolve) => setTimeout(resolve, 40));
    assert.equal(await code(get(a, "/v1/sessions/s")), "410 session_expired");
  });

  test("what is not there is 404, whatever is asked of it", async () => {
    const { app: a } = app();
    const append = { messages: user("x"), session: { id: "no", mode: "append" } };
    const requests = [
      get(a, "/v1/sessions/no"),
      send(a, "DELETE", "/v1/sessions/no"),
      post(a, "/v1/sessions/no/rewind", { to_turn: 0 }),
      post(a, "/v1/sessions/no/fork", {}),
      post(a, "/v1/sessions/no/export", {}),
      post(a, "/v1/sessions/no/plan", { messages: user("x") }),
      post(a, "/v1/chat/completions", append),
      post(a, "/v1/generate", append),
      post(a, "/v1/chat/completions", { session: { id: "no", mode: "regenerate" } }),
    ];
    for (const request of requests) assert.equal(await code(request), "404 session_not_found");
  });
});

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

describe("verbs", () => {
  test("rewind goes back to a turn or a token", async () => {
    const { app: a } = app();
    const [first, second] = [await turn(a, "A"), await turn(a, "B")];
    const { end } = (await json(get(a, "/v1/sessions/s"))).body.turns[0];
    const back = await json(post(a, "/v1/sessions/s/rewind", { to_turn: 1, if_turn: 2 }));
    assert.deepEqual([back.status, back.body.turn, back.body.tokens], [200, 1, end]);
    assert.equal((await turn(a, "B")).choices[0].message.content, second.choices[0].message.content);
    const cut = await json(post(a, "/v1/sessions/s/rewind", { to_token: end - 1 }));
    assert.deepEqual([cut.body.turn, cut.body.tokens], [1, end - 1]);
    assert.ok(first.choices[0].message.content.startsWith(
      (await json(get(a, "/v1/sessions/s"))).body.messages[1].content,
    ));

    assert.equal(await code(post(a, "/v1/sessions/s/rewind", { to_turn: 0, if_turn: 7 })), "412 turn_mismatch");
    for (const body of [{}, { to_turn: 1, to_token: 1 }, { to_turn: 9 }, { to_token: 1e6 }, { to_turn: -1 }]) {
      assert.equal((await post(a, "/v1/sessions/s/rewind", body)).status, 400, JSON.stringify(body));
    }
  });

  test("fork goes on apart from its parent", async () => {
    const { app: a } = app();
    await turn(a, "A");
    await turn(a, "B");
    const forked = await json(post(a, "/v1/sessions/s/fork", { id: "f", at_turn: 1 }));
    assert.deepEqual([forked.status, forked.headers.get("location")], [201, "/v1/sessions/f"]);
    assert.deepEqual([forked.body.turn, (await json(get(a, "/v1/sessions/s"))).body.turn], [1, 2]);
    const parts = { messages: user("C"), session: { id: "f", mode: "append" } };
    const went = await json(post(a, "/v1/chat/completions", { ...base, ...parts }));
    assert.equal(went.body.hearth.session.turn, 2);
    assert.ok(went.body.usage.prompt_tokens_details.cached_tokens > 0, "the fork has its parent's KV");
    assert.equal(await code(post(a, "/v1/sessions/s/fork", { id: "f" })), "409 session_exists");
    assert.equal((await post(a, "/v1/sessions/s/fork", { at_turn: 3 })).status, 400);
    assert.match((await json(post(a, "/v1/sessions/s/fork", {}))).body.id, /^[0-9a-f-]{36}$/);
  });

  test("verbs on a busy session are 409", async () => {
    const { app: a } = app({ delayMs: 5 });
    await turn(a, "A");
    const running = turn(a, "B", { max_tokens: 100 });
    await new Promise((resolve) => setTimeout(resolve, 15));
    for (
      const [verb, body] of [["rewind", { to_turn: 0 }], ["export", {}], ["plan", { messages: user("x") }]] as const
    ) {
      assert.equal(await code(post(a, `/v1/sessions/s/${verb}`, body)), "409 session_busy", verb);
    }
    assert.equal((await post(a, "/v1/sessions/s/fork", {})).status, 201);
    await running;
  });

  test("plan says what the same call then does", async () => {
    const { app: a, backend } = app({ delayMs: 2 });
    await turn(a, "A");
    const session = { mode: "append" };
    const body = { ...base, messages: user("B") };
    const passes = backend.passes.length;
    const { body: plan } = await json(post(a, "/v1/sessions/s/plan", { ...body, session }));
    assert.equal(backend.passes.length, passes);
    const { usage, hearth } = await turn(a, "B");
    assert.deepEqual([plan.object, plan.session, plan.turn, plan.fits], ["session.plan", "s", 1, true]);
    assert.deepEqual(
      [plan.prompt_tokens, plan.reused_tokens, plan.new_tokens, plan.max_tokens, plan.cache.reason, plan.state],
      [
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.prompt_tokens_details.cache_write_tokens,
        4,
        hearth.cache.reason,
        hearth.session.state_before,
      ],
    );
    assert.ok(plan.predicted_ttft_ms > 0);
    const other = { ...body, session: { id: "other", ...session } };
    assert.equal((await post(a, "/v1/sessions/s/plan", other)).status, 400);
    const overflow = { ...body, max_tokens: 9000, session };
    assert.equal(await code(post(a, "/v1/sessions/s/plan", overflow)), "400 context_length_exceeded");
  });
});

describe("capsules", () => {
  const octets = { "content-type": "application/octet-stream" };
  const KEY = "a key of this server";
  const capsuleOf = async (app: App, body: object = {}) => {
    const response = await post(app, "/v1/sessions/s/export", body);
    assert.equal(response.headers.get("content-type"), "application/octet-stream");
    return new Uint8Array(await response.arrayBuffer());
  };

  test("export and import, with KV and without", async () => {
    const { app: a } = app({ sessionKey: KEY });
    await turn(a, "A");
    for (const kv of [false, true]) {
      const { tokens, cached_tokens } = (await json(get(a, "/v1/sessions/s"))).body;
      const capsule = await capsuleOf(a, { kv });
      const { app: b } = app({ sessionKey: KEY });
      const came = await json(post(b, "/v1/sessions/import", capsule, octets));
      assert.deepEqual([came.status, came.headers.get("location")], [201, "/v1/sessions/s"]);
      const { body } = came;
      assert.deepEqual([body.tokens, body.kv_tokens, body.kv_refused], [tokens, kv ? cached_tokens : 0, null]);
      const [here, there] = [await turn(a, "B"), await turn(b, "B")];
      assert.equal(there.choices[0].message.content, here.choices[0].message.content);
      assert.equal(there.usage.prompt_tokens_details.cached_tokens, body.kv_tokens);
      await post(a, "/v1/sessions/s/rewind", { to_turn: 1 });
    }
  });

  test("says why KV was not taken", async () => {
    const { app: a } = app({ sessionKey: KEY });
    await turn(a, "A");
    const capsule = await capsuleOf(a, { kv: true });
    const { app: b } = app({ sessionKey: KEY, variant: "other" });
    assert.equal((await json(post(b, "/v1/sessions/import", capsule, octets))).body.kv_refused, "other_variant");
  });

  test("another id, and replacing, only if asked", async () => {
    const { app: a } = app();
    await turn(a, "A");
    const capsule = await capsuleOf(a);
    await turn(a, "B");
    assert.equal(await code(post(a, "/v1/sessions/import", capsule, octets)), "409 session_exists");
    assert.equal((await json(post(a, "/v1/sessions/import?id=t", capsule, octets))).body.id, "t");
    const replaced = await json(post(a, "/v1/sessions/import?replace=true", capsule, octets));
    assert.deepEqual([replaced.status, replaced.body.turn], [201, 1]);
    assert.equal((await post(a, "/v1/sessions/import?replace=perhaps", capsule, octets)).status, 400);
  });

  test("what is damaged, foreign or too large is refused, and nothing has changed", async () => {
    const { app: a } = app({ sessionKey: KEY });
    await turn(a, "A");
    const capsule = await capsuleOf(a, { kv: true });
    await send(a, "DELETE", "/v1/sessions/s");
    const flipped = capsule.slice();
    flipped[flipped.length - 40]! ^= 1;
    for (const bytes of [flipped, capsule.slice(0, -1), new Uint8Array(0), new TextEncoder().encode("hello")]) {
      assert.equal(await code(post(a, "/v1/sessions/import", bytes, octets)), "400 snapshot_corrupt");
    }
    const { app: other } = app({ sessionKey: "another key of others" });
    assert.equal(await code(post(other, "/v1/sessions/import", capsule, octets)), "400 snapshot_corrupt");
    const { app: small } = app({ sessionKey: KEY, maxCapsuleBytes: 100 });
    assert.equal(await code(post(small, "/v1/sessions/import", capsule, octets)), "413 snapshot_too_large");
    assert.equal((await post(a, "/v1/sessions/import", capsule)).status, 415);
    for (const one of [a, other, small]) assert.deepEqual((await json(get(one, "/v1/sessions"))).body.data, []);
  });

  test("a body that is too large is refused before it is read", async () => {
    const { app: a } = app({ maxCapsuleBytes: 1000 });
    let pulled = 0;
    const body = new ReadableStream({
      pull(controller) {
        pulled++;
        controller.enqueue(new Uint8Array(600));
      },
    }, { highWaterMark: 0 });
    const request = (headers: Record<string, string>) =>
      a.request("http://localhost/v1/sessions/import", {
        method: "POST",
        headers: { host: "localhost", ...octets, ...headers },
        body,
        duplex: "half",
      } as RequestInit);
    assert.equal((await request({ "content-length": "1001" })).status, 413);
    assert.equal(pulled, 0);
    assert.equal((await request({})).status, 413);
    assert.ok(pulled <= 3, `${pulled} parts were read`);
  });
});
