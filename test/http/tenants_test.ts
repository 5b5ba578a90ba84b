import assert from "node:assert/strict";
import { test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { get, post, send } from "./client.ts";

const messages = [{ role: "user", content: "Hello there" }];
const apiKeys = [
  { tenant: "ada", key: "ada-key" },
  { tenant: "ada", key: "ada-new-key" },
  { tenant: "bob", key: "bob-key" },
];
const as = (key: string) => ({ authorization: `Bearer ${key}` });
const [ada, bob] = [as("ada-key"), as("bob-key")];

async function setUp() {
  const fake = fakeEngine();
  const app = createApp(fake.engine, { apiKey: "old-key", apiKeys });
  const body = { messages, max_tokens: 3, ignore_eos: true, session: { id: "s", on_disconnect: "continue" } };
  const streamed = await post(app, "/v1/chat/completions", { ...body, stream: true }, {
    ...ada,
    "idempotency-key": "k",
  });
  await streamed.text();
  return { ...fake, app, body, stream: `/v1/streams/${streamed.headers.get("x-stream-id")}` };
}

test("a key says whose sessions are meant; several may say the same", async () => {
  const { app } = await setUp();
  const ids = async (key: string) =>
    (await (await get(app, "/v1/sessions", as(key))).json()).data.map(({ id }: { id: string }) => id);
  assert.deepEqual([await ids("ada-key"), await ids("ada-new-key")], [["s"], ["s"]]);
  assert.deepEqual([await ids("bob-key"), await ids("old-key")], [[], []]);
  for (const key of ["", "x", "ada-ke", "ada-key2", "ADA-KEY"]) {
    assert.ok([400, 401].includes((await get(app, "/v1/sessions", as(key))).status), key);
  }
  assert.equal((await get(app, "/v1/sessions")).status, 401);
});

test("no verb and no stream sees another tenant's", async () => {
  const { app, stream } = await setUp();
  const append = { messages, session: { id: "s", mode: "append" } };
  const requests: [method: string, path: string, body?: unknown][] = [
    ["GET", "/v1/sessions/s"],
    ["DELETE", "/v1/sessions/s"],
    ["POST", "/v1/sessions/s/rewind", { to_turn: 0 }],
    ["POST", "/v1/sessions/s/fork", {}],
    ["POST", "/v1/sessions/s/export", {}],
    ["POST", "/v1/sessions/s/plan", { messages }],
    ["POST", "/v1/chat/completions", append],
    ["POST", "/v1/generate", append],
    ["GET", stream],
    ["DELETE", stream],
  ];
  for (const [method, path, body] of requests) {
    const response = await send(app, method, path, body, { headers: bob });
    assert.equal(response.status, 404, `${method} ${path}`);
  }
  assert.equal((await get(app, stream, ada)).status, 200);
  assert.equal((await (await get(app, "/v1/sessions/s", ada)).json()).turn, 1);
});

test("the same names are other sessions, other keys and other KV", async () => {
  const { app, body, engine } = await setUp();
  const headers = { ...bob, "idempotency-key": "k" };
  const response = await post(app, "/v1/chat/completions", { ...body, max_tokens: 2 }, headers);
  assert.equal(response.status, 200);
  const { usage, hearth } = await response.json();
  assert.deepEqual([usage.prompt_tokens_details.cached_tokens, hearth.cache.reason], [0, "first_use"]);
  assert.equal((await send(app, "DELETE", "/v1/sessions/s", undefined, { headers: bob })).status, 200);
  assert.equal(engine.sessions.describe("s", { tenant: "ada" }).turn, 1);
});

test("what is public is shared by all tenants, and nobody's cached tokens", async () => {
  const { engine, backend } = fakeEngine();
  backend.info.kvShares = true;
  const system = { role: "system", content: "You are a helpful assistant." };
  await engine.publishPrompts([system.content]);
  const app = createApp(engine, { apiKeys });
  for (const key of [ada, bob]) {
    const body = { messages: [system, ...messages], max_tokens: 2, ignore_eos: true, session: "s" };
    const { usage, hearth } = await (await post(app, "/v1/chat/completions", body, key)).json();
    const { cache } = hearth;
    assert.deepEqual([cache.reused, cache.shared, cache.reason], [0, 0, "first_use"]);
    assert.ok(cache.public > 10 && cache.public < usage.prompt_tokens);
    const evaluated = usage.prompt_tokens - cache.public;
    assert.deepEqual(usage.prompt_tokens_details, { cached_tokens: 0, cache_write_tokens: evaluated });
    assert.equal(cache.written, evaluated + 1);

    const plain = await post(app, "/v1/generate", { ...body, session: undefined }, key);
    const header = (name: string) => plain.headers.get(name);
    assert.deepEqual([header("x-cached-tokens"), header("x-public-tokens")], ["0", `${cache.public}`]);
    await send(app, "POST", "/v1/sessions", { id: "t" }, { headers: key });
    const { messages: planned } = body;
    const plan = await (await post(app, "/v1/sessions/t/plan", { messages: planned, session: "t" }, key)).json();
    // By now the tenant has that beginning in a session of its own, and one token more of the user's.
    assert.deepEqual([plan.public_tokens, plan.reused_tokens], [0, usage.prompt_tokens - 1]);
    assert.deepEqual((await (await get(app, "/v1/sessions", key)).json()).data.length, 2);
  }
});

test("a sealed capsule opens for its tenant only", async () => {
  const { engine } = fakeEngine({ sessionKey: "a key of this server" });
  const app = createApp(engine, { apiKeys });
  await (await post(app, "/v1/generate", { messages, max_tokens: 2, session: "s" }, ada)).text();
  const capsule = new Uint8Array(await (await post(app, "/v1/sessions/s/export", {}, ada)).arrayBuffer());
  const octets = { "content-type": "application/octet-stream" };
  const foreign = await post(app, "/v1/sessions/import", capsule, { ...bob, ...octets });
  assert.deepEqual([foreign.status, (await foreign.json()).error.code], [400, "snapshot_corrupt"]);
  assert.equal((await post(app, "/v1/sessions/import?id=t", capsule, { ...ada, ...octets })).status, 201);
});
