import assert from "node:assert/strict";
import { test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { get, post, sseEvents } from "./client.ts";

const user = (content: string) => ({ role: "user", content });
const base = { max_tokens: 5, ignore_eos: true };

test("an answer says what the cache did, and why not more", async () => {
  const { engine, backend } = fakeEngine();
  const app = createApp(engine);
  const ask = async (messages: unknown[]) =>
    await (await post(app, "/v1/chat/completions", { ...base, messages, session: { id: "s", ttl_s: 100 } })).json();
  const first = await ask([user("A"), user("B")]);
  const { session, cache } = first.hearth;
  const tokens = first.usage.prompt_tokens + 5;
  assert.ok(Math.abs(session.expires_at - Date.now() / 1000 - 100) < 5);
  assert.deepEqual({ ...session, expires_at: 0 }, { id: "s", turn: 1, tokens, state_before: "cold", expires_at: 0 });
  assert.deepEqual(cache, {
    reused: 0,
    shared: 0,
    public: 0,
    written: tokens - 1,
    reason: "first_use",
    first_difference: null,
    bytes: backend.kvBytes(tokens - 1),
  });
  assert.equal(first.usage.prompt_tokens_details.cache_write_tokens, first.usage.prompt_tokens);

  const edited = await ask([user("A"), user("Bee"), first.choices[0].message, user("C")]);
  const { reused, written, first_difference } = edited.hearth.cache;
  assert.deepEqual([edited.hearth.cache.reason, edited.hearth.session.state_before], ["edited_at_message", "hot"]);
  assert.deepEqual(first_difference, { token: reused, message: 1 });
  const { prompt_tokens, prompt_tokens_details } = edited.usage;
  assert.deepEqual(prompt_tokens_details, { cached_tokens: reused, cache_write_tokens: prompt_tokens - reused });
  assert.equal(written, prompt_tokens - reused + 4);

  await engine.sessions.evict("s");
  const { body } = await get(app, "/v1/sessions/s").then(async (response) => ({ body: await response.json() }));
  const evicted = await ask([...body.messages, user("D")]);
  assert.deepEqual([evicted.hearth.cache.reason, evicted.hearth.session.state_before], ["evicted", "cold"]);
});

test("a stream says it in its last chunk, with usage where that is asked for", async () => {
  const { engine } = fakeEngine();
  const app = createApp(engine);
  const request = { ...base, messages: [user("A")], session: "s", stream: true };
  for (const include_usage of [false, true]) {
    const response = await post(app, "/v1/chat/completions", { ...request, stream_options: { include_usage } });
    assert.match(response.headers.get("server-timing")!, /^queue;dur=[\d.]+, restore;dur=[\d.]+$/);
    const chunks = sseEvents(await response.text()).map(({ data }) => data).slice(0, -1);
    assert.deepEqual(chunks.flatMap(({ hearth }, i) => hearth ? [i] : []), [chunks.length - 1]);
    const { hearth, usage, choices } = chunks.at(-1);
    assert.equal(hearth.session.turn, 1);
    assert.deepEqual(Object.keys(hearth.timings), ["queue_ms", "restore_ms", "prefill_ms", "decode_ms"]);
    assert.deepEqual([Boolean(usage), choices.length], [include_usage, include_usage ? 0 : 1]);
  }
});

test("plain text says it in headers", async () => {
  const { engine } = fakeEngine({ warmBudgetBytes: 2 ** 20, parking: { pays: () => true } });
  const app = createApp(engine);
  const ask = async (prompt: object = { prompt: "Once" }) => {
    const response = await post(app, "/v1/generate", { ...base, ...prompt, session: "s" });
    await response.text();
    return Object.fromEntries(response.headers);
  };
  const first = await ask();
  assert.deepEqual([first["x-cache-reason"], first["x-session-state"], first["x-cached-tokens"]], [
    "first_use",
    "cold",
    "0",
  ]);
  await engine.sessions.park("s");
  const second = await ask();
  assert.deepEqual([second["x-cache-reason"], second["x-session-state"]], ["restored", "warm"]);
  assert.match(second["server-timing"]!, /^queue;dur=[\d.]+, restore;dur=[\d.]+, prefill;dur=[\d.]+$/);
  assert.equal(second["x-cache-first-difference"], undefined);
  const third = await ask({ prompt: "Twice" });
  assert.deepEqual([third["x-cache-reason"], third["x-cache-first-difference"]], ["token_mismatch", "token=0"]);
  await ask({ messages: [user("A"), user("B")] });
  const fourth = await ask({ messages: [user("A"), user("C")] });
  const at = `token=${fourth["x-cached-tokens"]}, message=1`;
  assert.deepEqual([fourth["x-cache-reason"], fourth["x-cache-first-difference"]], ["edited_at_message", at]);
});

test("a call without the cache says that it is off, and names no session", async () => {
  const { engine } = fakeEngine();
  const request = { ...base, messages: [user("A")], session: "s", cache: "off" };
  const { hearth, usage } = await (await post(createApp(engine), "/v1/chat/completions", request)).json();
  assert.deepEqual([hearth.cache.reason, hearth.session], ["off", undefined]);
  assert.deepEqual(usage.prompt_tokens_details, { cached_tokens: 0, cache_write_tokens: 0 });
});
