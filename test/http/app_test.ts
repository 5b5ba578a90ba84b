import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Engine } from "../../src/engine/engine.ts";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { get, post, sseEvents } from "./client.ts";

const messages = [{ role: "user", content: "Hello there" }];

describe("POST /v1/chat/completions", () => {
  test("answers in OpenAI's shape", async () => {
    const { engine } = fakeEngine();
    const response = await post(createApp(engine), "/v1/chat/completions", {
      model: "default",
      messages,
      max_tokens: 4,
      ignore_eos: true,
      some_field_of_tomorrow: { a: 1 },
    });
    assert.equal(response.status, 200);
    const { id, created, choices: [{ message, ...choice }], usage, hearth, ...rest } = await response.json();
    assert.match(id, /^chatcmpl-/);
    assert.ok(Math.abs(created - Date.now() / 1000) < 60);
    assert.deepEqual(rest, { model: engine.model.id, object: "chat.completion", system_fingerprint: "fake" });
    assert.deepEqual(choice, { index: 0, logprobs: null, finish_reason: "length" });
    assert.deepEqual([message.role, typeof message.content, message.refusal], ["assistant", "string", null]);
    assert.deepEqual(usage, {
      prompt_tokens: usage.prompt_tokens,
      completion_tokens: 4,
      total_tokens: usage.prompt_tokens + 4,
      prompt_tokens_details: { cached_tokens: 0, cache_write_tokens: 0 },
      completion_tokens_details: { accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 },
    });
    assert.deepEqual([hearth.cache.reason, hearth.cache.reused], ["off", 0]);
    assert.match(
      response.headers.get("server-timing")!,
      /^queue;dur=[\d.]+, restore;dur=0.0, prefill;dur=[\d.]+, decode;dur=[\d.]+$/,
    );
  });

  test("streams chunks that typed clients accept, and the same text", async () => {
    const { engine } = fakeEngine();
    const app = createApp(engine);
    const body = { messages, max_tokens: 6, ignore_eos: true };
    const whole = await (await post(app, "/v1/chat/completions", body)).json();
    const response = await post(app, "/v1/chat/completions", {
      ...body,
      stream: true,
      stream_options: { include_usage: true },
    });
    assert.match(response.headers.get("content-type")!, /^text\/event-stream/);
    const events = sseEvents(await response.text()).map(({ data }) => data);
    assert.equal(events.pop(), "[DONE]");
    const usage = events.pop();
    assert.deepEqual([usage.choices, usage.usage], [[], whole.usage]);
    assert.deepEqual(events[0].choices[0].delta, { role: "assistant", content: "" });
    assert.equal(events.map((e) => e.choices[0].delta.content ?? "").join(""), whole.choices[0].message.content);
    assert.deepEqual(events.map((e) => e.choices[0].finish_reason).filter(Boolean), ["length"]);
    assert.equal(new Set(events.map((e) => `${e.id} ${e.created} ${e.model}`)).size, 1);
    assert.ok(events.every((e) => e.usage === null && e.choices[0].index === 0));
  });

  test("an error in the middle of a stream is its last event", async () => {
    const { engine, backend } = fakeEngine();
    backend.failNext = new Error("a secret of the server");
    const error = console.error;
    const logged: unknown[] = [];
    console.error = (...args) => logged.push(...args);
    try {
      const response = await post(createApp(engine), "/v1/chat/completions", { messages, stream: true });
      const last = sseEvents(await response.text()).at(-1)!.data;
      assert.equal(last.error.type, "server_error");
      assert.doesNotMatch(last.error.message, /secret/);
      assert.match(String(logged[0]), /secret/);
    } finally {
      console.error = error;
    }
  });

  test("pings while the model is silent", async () => {
    const { engine } = fakeEngine({ delayMs: 60 });
    const response = await post(createApp(engine, { pingMs: 10 }), "/v1/chat/completions", {
      messages,
      max_tokens: 2,
      ignore_eos: true,
      stream: true,
    });
    const body = await response.text();
    assert.ok(body.split(": ping\n\n").length > 3, body);
    assert.equal(sseEvents(body).at(-1)!.data, "[DONE]");
  });

  test("the three names of the token limit are one", async () => {
    const app = createApp(fakeEngine().engine);
    for (const name of ["max_tokens", "max_completion_tokens", "max_new_tokens"]) {
      const response = await post(app, "/v1/chat/completions", { messages, [name]: 3, ignore_eos: true });
      assert.equal((await response.json()).usage.completion_tokens, 3, name);
    }
  });

  test("a session by field, by object and by header is the same session", async () => {
    const app = createApp(fakeEngine().engine);
    const cached = async (extra: object, headers = {}) => {
      const body = { messages, max_tokens: 1, ignore_eos: true, ...extra };
      const response = await post(app, "/v1/chat/completions", body, headers);
      return (await response.json()).usage.prompt_tokens_details.cached_tokens;
    };
    assert.equal(await cached({ session: "s" }), 0);
    const warm = await cached({ session: { id: "s", ttl_s: 60 } });
    assert.ok(warm > 0);
    assert.equal(await cached({}, { "x-session-id": "s" }), warm);
    assert.equal(await cached({ session: "other" }), 0);
  });

  test("temperature makes it sample, by seed", async () => {
    const { engine } = fakeEngine();
    const app = createApp(engine);
    const ask = async (extra: object) => {
      const body = { messages, max_tokens: 8, ignore_eos: true, logit_bias: { "100": 20 }, ...extra };
      return (await (await post(app, "/v1/chat/completions", body)).json()).choices[0].message.content;
    };
    const greedy = await ask({});
    assert.equal(await ask({ temperature: 0 }), greedy);
    assert.equal(await ask({ temperature: 9, seed: 7 }), await ask({ temperature: 9, seed: 7 }));
    assert.notEqual(await ask({ temperature: 9, seed: 7 }), greedy);
    for (const none of [{ temperature: 0 }, { top_p: 0 }]) {
      assert.equal(await ask({ top_k: 50, seed: 7, ...none }), greedy);
    }
  });
});

describe("POST /v1/generate", () => {
  test("answers with plain text for a prompt and for messages", async () => {
    const app = createApp(fakeEngine().engine);
    for (const input of [{ prompt: "Once upon" }, { messages }]) {
      const response = await post(app, "/v1/generate", { ...input, max_tokens: 5, ignore_eos: true });
      assert.equal(response.status, 200);
      assert.equal(response.headers.get("content-type"), "text/plain; charset=utf-8");
      assert.ok((await response.text()).length > 0);
      assert.ok(Number(response.headers.get("x-prompt-tokens")) > 0);
    }
  });

  test("an error in prefill keeps its status", async () => {
    const { engine, backend } = fakeEngine();
    backend.failNext = new RangeError("boom");
    const error = console.error;
    console.error = () => {};
    const response = await post(createApp(engine), "/v1/generate", { prompt: "x" });
    console.error = error;
    assert.equal(response.status, 500);
  });
});

describe("errors", () => {
  const cases: [string, unknown, number, Partial<{ code: string | null; param: string | null }>][] = [
    ["malformed JSON", "{", 400, { code: "invalid_json" }],
    ["not an object", "[]", 400, {}],
    ["no messages", {}, 400, { param: "messages" }],
    ["empty messages", { messages: [] }, 400, { param: "messages" }],
    ["foreign role", { messages: [{ role: "root", content: "x" }] }, 400, { param: "messages.0.role" }],
    ["content of a wrong type", { messages: [{ role: "user", content: 7 }] }, 400, { param: "messages.0.content" }],
    ["an image", { messages: [{ role: "user", content: [{ type: "image_url" }] }] }, 400, {}],
    ["temperature of a wrong type", { messages, temperature: "hot" }, 400, { param: "temperature" }],
    ["top_p out of range", { messages, top_p: 1.5 }, 400, { param: "top_p" }],
    ["max_tokens not whole", { messages, max_tokens: 1.5 }, 400, { param: "max_tokens" }],
    ["more than one answer", { messages, n: 2 }, 400, { param: "n" }],
    ["a tool", { messages, tools: [{ type: "function", function: { name: "f" } }] }, 400, { param: "tools" }],
    ["a function", { messages, functions: [{ name: "f" }] }, 400, { param: "functions" }],
    ["speech", { messages, modalities: ["text", "audio"] }, 400, { param: "modalities.1" }],
    ["a stop string that is empty", { messages, stop: [""] }, 400, { param: "stop.0" }],
    ["a session id with a line break", { messages, session: "a\nb" }, 400, { param: "session" }],
    ["a session id that is long", { messages, session: { id: "x".repeat(300) } }, 400, { param: "session.id" }],
    ["a session id that is no text", { messages, session: { id: "s\ud800" } }, 400, { param: "session.id" }],
    ["logit_bias for a word", { messages, logit_bias: { hello: 1 } }, 400, {}],
    ["logit_bias beyond the vocabulary", { messages, logit_bias: { 2000: 1 } }, 400, { param: "logit_bias" }],
    ["an unknown model", { messages, model: "gpt-4o" }, 404, { code: "model_not_found", param: "model" }],
    ["too many tokens", { messages, max_tokens: 9000 }, 400, { code: "context_length_exceeded" }],
  ];
  for (const [what, body, status, expected] of cases) {
    test(`${what} is ${status}`, async () => {
      const { engine, backend } = fakeEngine();
      const response = await post(createApp(engine), "/v1/chat/completions", body);
      assert.equal(response.status, status);
      const { error } = await response.json();
      assert.ok(error.message.length > 10 && typeof error.type === "string");
      for (const [key, value] of Object.entries(expected)) assert.equal(error[key], value, JSON.stringify(error));
      assert.equal(backend.passes.length, 0);
    });
  }

  test("overflow says the counts", async () => {
    const { engine } = fakeEngine({ contextLength: 100 });
    const response = await post(createApp(engine), "/v1/chat/completions", { messages, max_tokens: 90 });
    const { error } = await response.json();
    assert.equal(error.context_length, 100);
    assert.equal(error.max_tokens_left, 100 - error.prompt_tokens);
  });

  test("overflow with truncation: auto answers, and says what was left out", async () => {
    const app = createApp(fakeEngine({ contextLength: 100 }).engine);
    const long = Array.from({ length: 9 }, (_, i) => ({
      role: i % 2 ? "assistant" : "user",
      content: `These are the words of message ${i}.`,
    }));
    const body = { messages: long, max_tokens: 5, ignore_eos: true, truncation: "auto" };
    const { hearth, choices } = await (await post(app, "/v1/chat/completions", body)).json();
    assert.equal(choices[0].finish_reason, "length");
    const { turns, messages: left, tokens } = hearth.truncated;
    assert.ok(turns > 0 && left === 2 * turns && tokens > left, JSON.stringify(hearth.truncated));
    const plain = await post(app, "/v1/generate", body);
    assert.deepEqual([plain.status, plain.headers.get("x-truncated-turns")], [200, `${turns}`]);
    const short = await (await post(app, "/v1/chat/completions", { ...body, messages: long.slice(-1) })).json();
    assert.equal(short.hearth.truncated, null);
  });

  test("a busy session is 409 and not to be retried", async () => {
    const { engine } = fakeEngine({ delayMs: 30 });
    const app = createApp(engine);
    const body = { messages, max_tokens: 5, session: "s" };
    const first = post(app, "/v1/chat/completions", body);
    await new Promise((resolve) => setTimeout(resolve, 10));
    const second = await post(app, "/v1/chat/completions", body);
    assert.equal(second.status, 409);
    assert.equal(second.headers.get("x-should-retry"), "false");
    assert.equal((await second.json()).error.code, "session_busy");
    assert.equal((await first).status, 200);
  });

  test("a body over the limit is 413", async () => {
    const app = createApp(fakeEngine().engine, { maxBodyBytes: 1000 });
    const response = await post(app, "/v1/generate", { prompt: "x".repeat(2000) });
    assert.equal(response.status, 413);
    assert.match((await response.json()).error.message, /1000 bytes/);
  });

  test("an unknown path is 404 in the same shape", async () => {
    const response = await get(createApp(fakeEngine().engine), "/v1/nothing");
    assert.equal(response.status, 404);
    assert.equal((await response.json()).error.type, "invalid_request_error");
  });

  test("no room for KV is 503 with a time to come back", async () => {
    const { engine } = fakeEngine({ kvBudgetBytes: 10 });
    const response = await post(createApp(engine), "/v1/generate", { prompt: "x" });
    assert.equal(response.status, 503);
    assert.ok(Number(response.headers.get("retry-after")) > 0 && Number(response.headers.get("retry-after-ms")) > 0);
  });
});

describe("safety", () => {
  test("another site's name for this machine is refused", async () => {
    const app = createApp(fakeEngine().engine);
    assert.equal((await get(app, "/v1/models", { host: "evil.example" })).status, 403);
    for (const host of ["localhost", "127.0.0.1:8787", "[::1]:8787"]) {
      assert.equal((await get(app, "/v1/models", { host })).status, 200, host);
    }
  });

  test("a key opens it to other names and is required", async () => {
    const app = createApp(fakeEngine().engine, { apiKey: "sesame" });
    const host = "hearth.example";
    assert.equal((await get(app, "/v1/models", { host, authorization: "Bearer sesame" })).status, 200);
    for (const authorization of ["", "Bearer wrong", "sesame"]) {
      const response = await get(app, "/v1/models", { host, ...(authorization && { authorization }) });
      assert.ok(response.status === 401 || response.status === 400, `${response.status}`);
      assert.equal((await response.json()).error.code, "invalid_api_key");
    }
    assert.equal((await get(app, "/readyz", { host })).status, 200);
  });

  test("a body that does not say it is JSON is refused", async () => {
    const app = createApp(fakeEngine().engine);
    for (const type of ["text/plain", "application/x-www-form-urlencoded"]) {
      assert.equal((await post(app, "/v1/generate", { prompt: "x" }, { "content-type": type })).status, 415);
    }
  });

  test("responses are not sniffed and name no foreign origin", async () => {
    const response = await get(createApp(fakeEngine().engine), "/v1/models", { origin: "https://evil.example" });
    assert.equal(response.headers.get("x-content-type-options"), "nosniff");
    assert.equal(response.headers.get("access-control-allow-origin"), null);
  });
});

describe("health and models", () => {
  test("GET /v1/models lists the model", async () => {
    const { engine } = fakeEngine();
    const { object, data } = await (await get(createApp(engine), "/v1/models")).json();
    assert.deepEqual([object, data.length, data[0].id, data[0].object], ["list", 1, engine.model.id, "model"]);
    assert.equal((await get(createApp(engine), `/v1/models/${engine.model.id}`)).status, 200);
    assert.equal((await get(createApp(engine), "/v1/models/other")).status, 404);
  });

  test("readyz follows the engine; livez only the process", async () => {
    const loading = Promise.withResolvers<Engine>();
    const app = createApp(loading.promise);
    assert.equal((await get(app, "/livez")).status, 200);
    assert.equal((await get(app, "/readyz")).status, 503);
    assert.equal((await post(app, "/v1/generate", { prompt: "x" })).status, 503);
    const { engine } = fakeEngine();
    loading.resolve(engine);
    await loading.promise;
    assert.equal((await get(app, "/readyz")).status, 200);
    await engine.drain(0);
    assert.equal((await get(app, "/readyz")).status, 503);
    assert.equal((await get(app, "/livez")).status, 200);
  });

  test("readyz says that the inference thread died", async () => {
    const { engine, backend } = fakeEngine();
    const app = createApp(engine);
    backend.failure = new Error("the inference thread is gone");
    const response = await get(app, "/readyz");
    assert.equal(response.status, 503);
    assert.match((await response.json()).reason, /inference thread is gone/);
    let asked = 0;
    Object.assign(backend, { revive: () => asked++ });
    await get(app, "/readyz");
    assert.equal((await post(app, "/v1/generate", { prompt: "Hello" })).status, 503);
    assert.ok(asked >= 2, "a probe and a request are each a reason to try again");
  });

  test("readyz says why the model is not there", async () => {
    const app = createApp(Promise.reject(new Error("no such folder")));
    await new Promise((resolve) => setTimeout(resolve, 0));
    assert.match((await (await get(app, "/readyz")).json()).reason, /no such folder/);
  });
});
