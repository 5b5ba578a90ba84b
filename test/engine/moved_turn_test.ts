import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { FallbackBackend } from "../../src/backend/fallback_backend.ts";
import { Engine } from "../../src/engine/engine.ts";
import type { GenerateEvent } from "../../src/engine/generate_request.ts";
import { BackendUnavailableError } from "../../src/errors.ts";
import { createApp } from "../../src/http/app.ts";
import { FakeBackend } from "../fakes/fake_backend.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";

/** An engine whose backend fails for good in the pass after it was asked what follows so many tokens. */
function failingAfter(tokens: number): { engine: Engine; first: FakeBackend; second: FakeBackend } {
  const { engine: { model }, backend: second } = fakeEngine();
  const { vocabSize } = model.config;
  const gone = new BackendUnavailableError("Cannot run the model: it is gone");
  const first: FakeBackend = new FakeBackend({
    vocabSize,
    next: (ids) => {
      if (ids.length >= tokens) first.failure = first.failNext = gone;
      return second.next(ids);
    },
  });
  second.info.name = "simd";
  second.info.reason = "the other one is gone";
  const backend = new FallbackBackend(first, async () => second);
  return { engine: new Engine(model, backend, { kvBudgetBytes: 2 ** 30, prefillChunk: 8 }), first, second };
}

test("a turn whose backend fails goes on elsewhere with the same tokens, wherever that is", async () => {
  const prompt = Array.from({ length: 20 }, (_, i) => i);
  const request = { prompt: { ids: prompt }, maxTokens: 15, ignoreEos: true, session: { id: "s" } };
  const { engine: whole } = fakeEngine();
  const want = (await Array.fromAsync(whole.generate(request))).filter(({ type }) => type === "token");
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 20, max: 34 }), async (tokens) => {
      const { engine, first, second } = failingAfter(tokens);
      const events = await Array.fromAsync(engine.generate(request));
      assert.deepEqual(events.filter(({ type }) => type === "token"), want);
      const moved = events.filter(({ type }) => type === "backend");
      // Nothing is evaluated after the last token.
      assert.equal(moved.length, tokens < 34 ? 1 : 0);
      if (tokens < 34) {
        assert.deepEqual(moved, [{ type: "backend", text: "", name: "simd", reason: "the other one is gone" }]);
        assert.equal(events.findIndex(({ type }) => type === "backend"), tokens - 20 + 1);
      }
      assert.equal(first.caches.size + second.caches.size, 1);
      const turn = (await Array.fromAsync(engine.generate({ ...request, session: { id: "s", ifTurn: 1 } }))).at(-1)!;
      assert.equal(turn.type, "end");
    }),
  );
});

test("a turn that is cancelled while its backend is replaced leaves the session to the next one", async () => {
  const { engine: { model }, backend: second } = fakeEngine();
  const first = new FakeBackend({ vocabSize: model.config.vocabSize });
  const started = Promise.withResolvers<FakeBackend>();
  const backend = new FallbackBackend(first, () => started.promise);
  const engine = new Engine(model, backend, { kvBudgetBytes: 2 ** 30, prefillChunk: 8 });
  const request = { prompt: { ids: [1, 2, 3] }, maxTokens: 5, ignoreEos: true, session: { id: "s" } };
  await Array.fromAsync(engine.generate(request));
  const longer = { ...request, prompt: { ids: Array.from({ length: 30 }, (_, i) => i) } };
  first.failure = first.failNext = new BackendUnavailableError("Cannot run the model: it is gone");
  const cancelled = await engine.start(longer);
  const read = Array.fromAsync(cancelled);
  await setImmediate();
  await setImmediate();
  cancelled.cancel();
  await cancelled.settled;
  const next = Array.fromAsync(engine.generate(longer));
  await setImmediate();
  started.resolve(second);
  await assert.rejects(read, { name: "AbortError" });
  const { engine: whole } = fakeEngine();
  const tokens = (events: GenerateEvent[]) => events.filter(({ type }) => type === "token");
  assert.deepEqual(tokens(await next), tokens(await Array.fromAsync(whole.generate(longer))));
  assert.equal(second.caches.size + first.caches.size, 1);
});

test("a chat stream says what it goes on with", async () => {
  const { engine } = failingAfter(60);
  const response = await createApp(engine).request("/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json", host: "localhost" },
    body: JSON.stringify({
      messages: [{ role: "user", content: "a ".repeat(20) }],
      stream: true,
      max_tokens: 50,
      ignore_eos: true,
    }),
  });
  const chunks = (await response.text()).split("\n\n").flatMap((event) => /^data: (\{.*)/m.exec(event)?.[1] ?? []);
  const said = chunks.map((chunk) => JSON.parse(chunk)).filter(({ hearth }) => hearth?.backend);
  assert.deepEqual(said.map(({ hearth }) => hearth), [{
    backend: { name: "simd", reason: "the other one is gone" },
  }]);
  assert.deepEqual(said[0].choices[0].delta, {});
});

test("a turn fails with its backend where there is nothing else", async () => {
  const { engine, backend } = fakeEngine();
  backend.failNext = new BackendUnavailableError("Cannot run the model: it is gone");
  await assert.rejects(Array.fromAsync(engine.generate({ prompt: { ids: [1, 2] } })), /it is gone/);
});
