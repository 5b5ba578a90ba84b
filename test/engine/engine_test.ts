import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { GenerateEvent } from "../../src/engine/generate_request.ts";
import {
  BackendUnavailableError,
  ContextOverflowError,
  InvalidRequestError,
  OutOfMemoryError,
  SessionBusyError,
} from "../../src/errors.ts";
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";
import { FAKE_BYTES_PER_TOKEN } from "../fakes/fake_backend.ts";
import { collect, fakeEngine } from "../fakes/fake_engine.ts";

const hello: ChatMessage[] = [{ role: "user", content: "Hello there" }];
const EOS = 2;

/** A fake model that gives these replies' tokens, one reply a turn, each ended by EOS; the last one repeats. */
function scripted(...replies: number[][]) {
  let turn = 0;
  let left: number[] = [];
  return () => {
    if (left.length === 0) left = [...replies[Math.min(turn++, replies.length - 1)]!, EOS];
    return left.shift()!;
  };
}

describe("Engine.generate()", () => {
  test("streams text that adds up, and says what it used", async () => {
    const { engine } = fakeEngine();
    const prompt = { text: "The quick brown fox" };
    const { ids, text, end } = await collect(engine.generate({ prompt, maxTokens: 20, ignoreEos: true }));
    assert.equal(ids.length, 20);
    assert.equal(text, engine.tokenizer.decode(ids));
    assert.equal(end.finishReason, "length");
    assert.deepEqual(end.usage, {
      promptTokens: engine.tokenizer.encode(prompt.text).length,
      cachedTokens: 0,
      completionTokens: 20,
      drafts: { accepted: 0, rejected: 0 },
      cache: {
        reused: 0,
        shared: 0,
        fromPublic: 0,
        written: engine.tokenizer.encode(prompt.text).length + 19,
        reason: "off",
        bytes: (engine.tokenizer.encode(prompt.text).length + 19) * FAKE_BYTES_PER_TOKEN,
        stateBefore: "cold",
        turn: 0,
      },
    });
  });

  test("ends at an end token without showing it", async () => {
    const { engine } = fakeEngine();
    const words = engine.tokenizer.encode("Fine, thanks");
    const script = scripted(words);
    const { engine: answering } = fakeEngine({ next: script });
    const { text, end } = await collect(answering.generate({ prompt: { messages: hello } }));
    assert.equal(text, "Fine, thanks");
    assert.equal(end.finishReason, "stop");
    assert.equal(end.usage.completionTokens, words.length);
  });

  test("ends at a stop string and shows nothing of it", async () => {
    const { engine } = fakeEngine();
    const next = scripted(engine.tokenizer.encode("one two three four"));
    const { engine: answering } = fakeEngine({ next });
    const { text, end } = await collect(answering.generate({ prompt: { messages: hello }, stop: ["o th", "five"] }));
    assert.equal(text, "one tw");
    assert.equal(end.finishReason, "stop");
  });

  test("prefills in chunks and asks for logits once", async () => {
    const { engine, backend } = fakeEngine({ prefillChunk: 8 });
    const ids = Array.from({ length: 20 }, (_, i) => 100 + i);
    await collect(engine.generate({ prompt: { ids }, maxTokens: 2, ignoreEos: true }));
    assert.deepEqual(backend.passes, [
      { tokens: 8, start: 0 },
      { tokens: 8, start: 8 },
      { tokens: 4, start: 16 },
      { tokens: 1, start: 20 },
    ]);
  });

  test("max_tokens 0 only fills the session's cache", async () => {
    const { engine, backend } = fakeEngine();
    const prompt = { ids: [5, 6, 7, 8] };
    const first = await collect(engine.generate({ prompt, maxTokens: 0, session: { id: "s" } }));
    assert.deepEqual([first.ids, first.end.finishReason], [[], "length"]);
    const second = await collect(engine.generate({ prompt, maxTokens: 1, session: { id: "s" } }));
    assert.equal(second.end.usage.cachedTokens, 3);
    assert.deepEqual(backend.passes.at(-1), { tokens: 1, start: 3 });
  });

  test("useCache false recomputes everything and leaves nothing", async () => {
    const { engine, backend } = fakeEngine();
    const request = { prompt: { ids: [5, 6, 7] }, maxTokens: 4, ignoreEos: true };
    const cached = await collect(engine.generate(request));
    backend.passes.length = 0;
    const uncached = await collect(engine.generate({ ...request, useCache: false, session: { id: "s" } }));
    assert.deepEqual(uncached.ids, cached.ids);
    assert.deepEqual(backend.passes.map((pass) => pass.tokens), [3, 4, 5, 6]);
    assert.equal(backend.caches.size, 0);
    assert.equal(engine.sessions.stats().sessions, 0);
  });

  test("refuses what cannot work before any pass", async () => {
    const { engine, backend } = fakeEngine({ contextLength: 32 });
    const ids = Array.from({ length: 30 }, (_, i) => i);
    const refusals = [
      [{ prompt: { ids }, maxTokens: 3 }, ContextOverflowError],
      [{ prompt: { ids: [...ids, 1, 2] } }, ContextOverflowError],
      [{ prompt: { ids: [] } }, InvalidRequestError],
      [{ prompt: { ids: [49152] } }, InvalidRequestError],
      [{ prompt: { ids: [1] }, maxTokens: -1 }, InvalidRequestError],
      [{ prompt: { ids: [1] }, stop: [""] }, InvalidRequestError],
      [{ prompt: { ids: [1] }, sampling: { temperature: Number.NaN } }, InvalidRequestError],
    ] as const;
    for (const [request, type] of refusals) {
      await assert.rejects(collect(engine.generate({ ...request, session: { id: "s" } })), type);
    }
    assert.equal(backend.passes.length, 0);
    // A refused turn holds nothing.
    await collect(engine.generate({ prompt: { ids }, maxTokens: 2, session: { id: "s" } }));
  });

  test("stops where the context ends", async () => {
    const { engine } = fakeEngine({ contextLength: 10 });
    const { ids, end } = await collect(engine.generate({ prompt: { ids: [1, 2, 3, 4] }, ignoreEos: true }));
    assert.equal(ids.length, 6);
    assert.equal(end.finishReason, "length");
  });

  test("refuses a turn that the KV budget cannot hold", async () => {
    const { engine } = fakeEngine({ kvBudgetBytes: 10 * FAKE_BYTES_PER_TOKEN });
    await assert.rejects(collect(engine.generate({ prompt: { ids: [1, 2, 3] }, maxTokens: 8 })), OutOfMemoryError);
    await collect(engine.generate({ prompt: { ids: [1, 2, 3] }, maxTokens: 7 }));
  });
});

describe("Engine sessions", () => {
  test("a second turn evaluates its new tokens only, and gives the tokens of a cold run", async () => {
    const { engine, backend } = fakeEngine();
    const session = { id: "s" };
    const first = await collect(engine.generate({ prompt: { messages: hello }, maxTokens: 12, session }));
    const messages = [...hello, { role: "assistant", content: first.text }, { role: "user", content: "Go on" }];
    backend.passes.length = 0;
    const warm = await collect(engine.generate({ prompt: { messages }, maxTokens: 12, session }));
    // What the first turn evaluated: its prompt and all but the last token it sampled.
    assert.equal(warm.end.usage.cachedTokens, first.end.usage.promptTokens + first.ids.length - 1);
    assert.equal(backend.passes[0]!.start, warm.end.usage.cachedTokens);
  });

  test("an answer keeps the ids it was sampled with, however its text would be encoded", async () => {
    const { engine } = fakeEngine();
    // "with" as two tokens; encoding the text gives one.
    const odd = [...engine.tokenizer.encode("wi"), ...engine.tokenizer.encode("th")];
    assert.notDeepEqual(engine.tokenizer.encode("with"), odd);
    const { engine: answering } = fakeEngine({ next: scripted(odd) });
    const session = { id: "s" };
    const first = await collect(answering.generate({ prompt: { messages: hello }, session }));
    assert.deepEqual([first.text, first.ids], ["with", odd]);
    const replayed = [...hello, { role: "assistant", content: "with" }, { role: "user", content: "More" }];
    const second = await collect(answering.generate({ prompt: { messages: replayed }, session, maxTokens: 1 }));
    assert.equal(second.end.usage.cachedTokens, first.end.usage.promptTokens + odd.length);
    // An edited answer is another text: nothing of the stored one is used.
    replayed[1] = { role: "assistant", content: "No." };
    const edited = await collect(answering.generate({ prompt: { messages: replayed }, session, maxTokens: 1 }));
    assert.ok(edited.end.usage.cachedTokens <= first.end.usage.promptTokens);
  });

  test('cache "off" neither reads nor keeps', async () => {
    const { engine, backend } = fakeEngine();
    const request = { prompt: { messages: hello }, maxTokens: 3, session: { id: "s" } };
    await collect(engine.generate(request));
    const off = await collect(engine.generate({ ...request, cache: "off" }));
    assert.equal(off.end.usage.cachedTokens, 0);
    assert.equal(backend.caches.size, 1);
  });

  test("one turn at a time: the second is refused, whether the first is read or not", async () => {
    const { engine } = fakeEngine();
    const request = { prompt: { messages: hello }, maxTokens: 3, session: { id: "s" } };
    const first = await engine.start(request);
    await assert.rejects(engine.start(request), SessionBusyError);
    first.cancel();
    await collect(await engine.start(request));
  });

  test("cancelling stops within one chunk, and the next turn waits for it and is right", async () => {
    const { engine, backend } = fakeEngine({ prefillChunk: 4, delayMs: 20 });
    const session = { id: "s" };
    const old = { ids: [50, 51, 52, 53] };
    await collect(engine.generate({ prompt: old, maxTokens: 0, session }));
    const prompt = { ids: Array.from({ length: 40 }, (_, i) => 50 + i) };
    const abort = new AbortController();
    const reading = collect(engine.generate({ prompt, maxTokens: 5, session }, { signal: abort.signal }));
    await new Promise((resolve) => setTimeout(resolve, 50));
    const started = backend.passes.length;
    abort.abort(new Error("client left"));
    const next = collect(engine.generate({ prompt, maxTokens: 5, ignoreEos: true, session }));
    await assert.rejects(reading, /client left/);
    const { ids, end } = await next;
    // The cancelled turn left nothing but what was there before it.
    assert.equal(end.usage.cachedTokens, old.ids.length);
    const cold = await collect(engine.generate({ prompt, maxTokens: 5, ignoreEos: true }));
    assert.deepEqual(ids, cold.ids);
    assert.ok(started <= 4, `${started} passes before the cancel`);
  });

  test("a reader that stops reading does not hold the session after cancel()", async () => {
    const { engine } = fakeEngine();
    const request = { prompt: { messages: hello }, maxTokens: 9, ignoreEos: true, session: { id: "s" } };
    const stuck = await engine.start(request);
    const iterator = stuck[Symbol.asyncIterator]();
    await iterator.next();
    stuck.cancel();
    const { ids } = await collect(await engine.start(request));
    assert.deepEqual(ids, (await collect(engine.generate({ ...request, session: undefined }))).ids);
    await assert.rejects(iterator.next(), { name: "AbortError" });
  });

  test("a turn that the reader of another cancels, steps after a pass of both, leaves its session alone", async () => {
    for (let run = 0; run < 140; run++) {
      const promptLookup = run % 2 === 0 ? "off" : "always";
      const { engine, backend } = fakeEngine({ promptLookup, next: () => 9, prefillChunk: 4 });
      const request = { prompt: { ids: [9] }, maxTokens: 40, ignoreEos: true };
      await collect(engine.generate({ ...request, prompt: { ids: [1] }, session: { id: "s" } }));
      const running = await engine.start({
        ...request,
        prompt: { ids: Array(1 + run % 20).fill(9) },
        session: { id: "s" },
      });
      const cancelled = assert.rejects(collect(running), { name: "AbortError" });
      let events = 0;
      for await (const _ of engine.generate({ ...request, useCache: run % 3 > 0 })) {
        if (++events !== 1 + run % 17) continue;
        for (let step = run % 7; step > 0; step--) await undefined;
        running.cancel();
      }
      await cancelled;
      const { cachedTokens, tokens } = engine.sessions.describe("s");
      assert.ok(cachedTokens <= tokens);
      assert.deepEqual([...backend.caches].map(({ length }) => length), cachedTokens > 0 ? [cachedTokens] : []);
    }
  });

  test("a cancelled turn commits nothing, whatever its reader was shown last and would get next", async () => {
    const { engine, backend } = fakeEngine({ next: scripted([40], [], [41]) });
    Object.assign(backend, { recover: () => Promise.resolve(backend.info) });
    const session = { id: "s", mode: "append" } as const;
    await collect(engine.generate({ prompt: { ids: [50] }, session: { id: "s" } }));
    backend.failNext = new BackendUnavailableError("The device is gone");
    const generation = await engine.start({ prompt: { ids: [51] }, session });
    const events = generation[Symbol.asyncIterator]();
    assert.equal((await events.next()).value!.type, "backend");
    generation.cancel(new Error("client left"));
    const { ids } = await collect(engine.generate({ prompt: { ids: [52] }, session }));
    assert.deepEqual(ids, [41]);
    await assert.rejects(events.next(), /client left/);
    assert.deepEqual(engine.sessions.inspect("s").ids, [50, 40, 52, 41]);
  });

  test("a session whose KV went with its backend goes on from its words", async () => {
    const { engine, backend } = fakeEngine();
    const turn = () =>
      engine.generate({ prompt: { messages: hello }, maxTokens: 6, ignoreEos: true, session: { id: "s" } });
    const first = await collect(turn());
    for (const cache of backend.caches) cache.lost = true;
    const second = await collect(turn());
    assert.deepEqual(second.ids, first.ids);
    assert.equal(second.end.usage.cachedTokens, 0);
    assert.equal(backend.caches.size, 1);
  });

  test("a turn whose KV goes with its backend while it waits for room begins from its words", async () => {
    const parking = { pays: () => true };
    const { engine, backend } = fakeEngine({ kvBudgetBytes: 300, warmBudgetBytes: 300, parking });
    const turn = (id: string, ids: number[], maxTokens: number) => ({
      prompt: { ids },
      maxTokens,
      ignoreEos: true,
      session: { id },
    });
    await collect(engine.generate(turn("other", [1, 2, 3, 4], 5)));
    await collect(engine.generate(turn("s", [1, 2, 3], 5)));
    // The other's KV is on its way out for as long as this test wants.
    const leaves = Promise.withResolvers<void>();
    backend.exportKv = async function* () {
      await leaves.promise;
      yield new Uint8Array();
    };
    const starting = engine.start(turn("s", [1, 2, 3, 4], 22));
    while (engine.sessions.stats().evictions === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    for (const cache of backend.caches) cache.lost = true;
    leaves.resolve();
    const generation = await starting;
    assert.deepEqual([generation.cachedTokens, generation.forecast.reason], [0, "evicted"]);
    const { ids } = await collect(generation);
    assert.deepEqual(ids, (await collect(fakeEngine().engine.generate(turn("s", [1, 2, 3, 4], 22)))).ids);
    assert.equal(backend.caches.size, 1);
  });

  test("a pass that fails after it touched the cache leaves the session right", async () => {
    const { engine, backend } = fakeEngine();
    const request = { prompt: { messages: hello }, maxTokens: 6, ignoreEos: true, session: { id: "s" } };
    const events: GenerateEvent[] = [];
    await assert.rejects(async () => {
      for await (const event of engine.generate(request)) {
        events.push(event);
        if (events.length === 3) backend.failNext = new Error("boom");
      }
    }, /boom/);
    const again = await collect(engine.generate(request));
    assert.deepEqual(again.ids, (await collect(engine.generate({ ...request, session: undefined }))).ids);
  });
});

describe("Engine.drain()", () => {
  test("lets running answers end and takes no new ones", async () => {
    const { engine } = fakeEngine({ delayMs: 5 });
    const running = collect(await engine.start({ prompt: { messages: hello }, maxTokens: 5, ignoreEos: true }));
    const drained = engine.drain(5000);
    await assert.rejects(engine.start({ prompt: { messages: hello } }), /shutting down/);
    assert.equal((await running).ids.length, 5);
    await drained;
  });

  test("cancels what outlasts the grace, read or unread", async () => {
    const { engine } = fakeEngine({ delayMs: 20 });
    const request = { prompt: { messages: hello }, maxTokens: 1000, ignoreEos: true };
    const running = collect(await engine.start(request));
    await engine.start(request);
    const refused = assert.rejects(running, /shutting down/);
    await engine.drain(50);
    await refused;
  });
});
