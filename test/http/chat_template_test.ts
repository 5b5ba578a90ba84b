import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { get, post } from "./client.ts";

/** Loops for ever when it is told to. */
const CHAT_TEMPLATE = "{% if messages[-1]['content'] == 'hang' %}" + "{% for a in range(1000) %}".repeat(5) +
  "{% endfor %}".repeat(5) + "{% endif %}{{ messages[-1]['content'] }}";

const asking = (content: string) => ({
  messages: [{ role: "user", content }],
  max_tokens: 2,
  ignore_eos: true,
  session: "s",
});

describe("a chat template that loops", () => {
  test("is one request's end and nobody else's", async () => {
    const { engine } = fakeEngine({ chatTemplate: CHAT_TEMPLATE, templateLimitMs: 400 });
    const app = createApp(engine);
    assert.equal((await post(app, "/v1/chat/completions", asking("hello"))).status, 200);

    let settled = false;
    const hanging = post(app, "/v1/chat/completions", asking("hang")).finally(() => settled = true);
    assert.equal((await get(app, "/livez")).status, 200);
    assert.equal((await post(app, "/v1/generate", { prompt: "hello", max_tokens: 2 })).status, 200);
    assert.equal(settled, false);

    const refused = await hanging;
    const { error } = await refused.json();
    assert.deepEqual([refused.status, error.code, error.param], [500, "chat_template_failed", "messages"]);
    assert.match(error.message, /template took longer than 400 ms; send a prompt instead$/);
    assert.equal(refused.headers.get("x-should-retry"), "false");

    // The session is free, and at the turn that it was.
    assert.equal(engine.sessions.inspect("s").turn, 1);
    assert.equal((await post(app, "/v1/chat/completions", asking("hello"))).status, 200);
  });
});

test("a model without a chat template says what to send instead", async () => {
  const { engine } = fakeEngine({ chatTemplate: null });
  const response = await post(createApp(engine), "/v1/chat/completions", asking("hello"));
  const { error } = await response.json();
  assert.deepEqual([response.status, error.code], [500, "chat_template_failed"]);
  assert.match(error.message, /has no chat_template; send a prompt instead$/);
});
