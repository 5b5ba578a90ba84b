import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { get, post, send } from "./client.ts";
import { app, base, code, json, turn, user } from "./session_client.ts";

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
