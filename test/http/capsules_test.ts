import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type App, get, post, send } from "./client.ts";
import { app, code, json, turn } from "./session_client.ts";

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
