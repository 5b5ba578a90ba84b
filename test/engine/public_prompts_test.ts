import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { GenerateRequest, SessionRef, Usage } from "../../src/engine/generate_request.ts";
import { FAKE_BYTES_PER_TOKEN } from "../fakes/fake_backend.ts";
import { collect, fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";

const PREFIX = Array.from({ length: 20 }, (_, i) => i);
const SYSTEM = "You answer in one word. Never say that you are a program.";

/** An engine that shares blocks, with one public prefix. */
async function withPrefix(options: FakeEngineOptions = {}) {
  const { engine, backend } = fakeEngine({ vocabSize: 50, ...options });
  backend.info.kvShares = true;
  await engine.publishPrompts([{ ids: PREFIX }]);
  /** A turn of a session, or a call without one, whose answer is checked. */
  async function ask(
    ids: number[],
    session?: Partial<SessionRef>,
    rest: Partial<GenerateRequest> = {},
  ): Promise<Usage> {
    const named = session && { id: "s", ...session };
    const request = { prompt: { ids }, maxTokens: 3, ignoreEos: true, session: named, ...rest };
    const answer = await collect(engine.generate(request));
    const all = [...ids];
    for (const id of answer.ids) {
      assert.equal(id, backend.next(all));
      all.push(id);
    }
    return answer.end.usage;
  }
  /** Tokens of its own that the answer counts, those of the public prefix, and those evaluated of the prompt. */
  async function counts(
    ...call: Parameters<typeof ask>
  ): Promise<[own: number, fromPublic: number, evaluated: number]> {
    const passes = backend.passes.length;
    const { cachedTokens, cache: { reused, fromPublic, written }, promptTokens } = await ask(...call);
    assert.equal(cachedTokens, reused);
    // The last sampled token is not evaluated.
    assert.equal(reused + fromPublic + written, promptTokens + 2);
    const first = backend.passes[passes]!;
    return [cachedTokens, fromPublic, first.start + first.tokens === promptTokens ? first.tokens : NaN];
  }
  return { engine, backend, ask, counts };
}

describe("a public prompt", () => {
  test("is evaluated once, and no tenant's cached tokens until it is in a session of its own", async () => {
    const { engine, backend, counts } = await withPrefix();
    assert.deepEqual([backend.passes.length, backend.caches.size], [1, 1]);
    for (const tenant of ["a", "b"]) {
      assert.deepEqual(await counts([...PREFIX, 7], { tenant }), [0, 20, 1]);
      const { ids } = engine.sessions.inspect("s", { tenant });
      assert.deepEqual(await counts([...ids, 8], { tenant }), [ids.length - 1, 0, 2]);
      // What another session of the tenant has is its own.
      assert.deepEqual(await counts([...PREFIX, 7, 9], { tenant, id: "t" }), [21, 0, 1]);
    }
    assert.deepEqual(await counts([...PREFIX, 7]), [0, 20, 1], "a call without a session");
    const { sessions, hot, publicPrefixes } = engine.sessions.stats();
    assert.deepEqual([sessions, hot, publicPrefixes], [4, 4, 1]);
  });

  test("is shared whole or not at all, and neither read nor kept by a call without cache", async () => {
    const { engine, backend, counts, ask } = await withPrefix();
    assert.deepEqual(await counts([...PREFIX.slice(0, 19), 7, 7], {}), [0, 0, 21]);
    assert.deepEqual(await counts(PREFIX, { tenant: "same" }), [0, 0, 20]);
    assert.deepEqual(await counts([...PREFIX, 7], { tenant: "off" }, { cache: "off" }), [0, 0, 21]);
    assert.equal((await ask([...PREFIX, 7], {}, { useCache: false })).cache.fromPublic, 0);
    await engine.publishPrompts([{ ids: PREFIX }, { ids: [...PREFIX, 30, 31] }, { ids: PREFIX }]);
    assert.deepEqual(await counts([...PREFIX, 30, 31, 7], { tenant: "a" }), [0, 22, 1], "the longest");
    assert.deepEqual(await counts([...PREFIX, 30, 32, 7], { tenant: "a", id: "t" }), [22 - 1, 0, 2]);
    backend.info.kvShares = false;
    assert.deepEqual(await counts([...PREFIX, 7], { tenant: "b" }), [0, 0, 21], "where a fork is a copy");
  });

  test("goes when room is needed, comes back with the next that evaluates it, and is no session's hindrance", async () => {
    const { engine, backend, counts } = await withPrefix({ kvBudgetBytes: 70 * FAKE_BYTES_PER_TOKEN });
    assert.equal(engine.sessions.stats().hotBytes, 20 * FAKE_BYTES_PER_TOKEN);
    assert.deepEqual(await counts(Array(57).fill(40), { id: "big" }), [0, 0, 57]);
    assert.equal(backend.caches.size, 1);
    assert.deepEqual(await counts([...PREFIX, 7], { tenant: "a" }), [0, 0, 21]);
    assert.deepEqual(await counts([...PREFIX, 8], { tenant: "b" }), [0, 20, 1]);
    // This turn leaves no room for it, before and after.
    assert.deepEqual(await counts([...PREFIX, ...Array(37).fill(41)], { tenant: "c" }), [0, 0, 57]);
    assert.equal(engine.sessions.describe("s", { tenant: "c" }).hotBytes, 59 * FAKE_BYTES_PER_TOKEN);
    const { hotBytes } = engine.sessions.stats();
    assert.equal(hotBytes, [...backend.caches].reduce((sum, { bytes }) => sum + bytes, 0));
    assert.ok(hotBytes <= 70 * FAKE_BYTES_PER_TOKEN);
  });

  test("comes back after a crash, and leaves nothing behind", async () => {
    const { engine, backend, counts } = await withPrefix();
    await counts([...PREFIX, 7], { tenant: "a" });
    for (const cache of backend.caches) cache.lost = true;
    assert.deepEqual(await counts([...PREFIX, 7, 8], { tenant: "b" }), [0, 0, 22]);
    assert.deepEqual(await counts([...PREFIX, 7, 8], { tenant: "c" }), [0, 20, 2]);
    await engine[Symbol.asyncDispose]();
    assert.deepEqual([backend.caches.size, engine.sessions.stats().hotBytes], [0, 0]);
  });

  test("makes no room for what a cancelled turn has not evaluated, and lets go of its session at once", async () => {
    const { engine, backend, ask } = await withPrefix({ kvBudgetBytes: 70 * FAKE_BYTES_PER_TOKEN });
    for (const cache of backend.caches) cache.lost = true;
    // Beside this the turn has room, and the prefix has not.
    await ask(Array(38).fill(40), { id: "big" });
    const session = { id: "s", tenant: "a" };
    const generation = await engine.start({ prompt: { ids: [...PREFIX, 7] }, maxTokens: 3, session });
    generation.cancel();
    await generation.settled;
    assert.equal(engine.sessions.describe("big").state, "hot");
    assert.equal(engine.sessions.stats().evictions, 0);
    assert.deepEqual(engine.sessions.list({ tenant: "a" }), []);
  });

  test("is not taken from a turn that did not come so far, nor from one that was given its KV", async () => {
    const { engine, backend, counts, ask } = await withPrefix({
      prefillChunk: 8,
      warmBudgetBytes: 2 ** 20,
      parking: { pays: () => true },
    });
    const lose = () => [...backend.caches].forEach((cache) => cache.lost = true);
    await ask([...PREFIX, 7], { tenant: "a" });
    await engine.sessions.park("s", { tenant: "a" });
    lose();
    const { ids } = engine.sessions.inspect("s", { tenant: "a" });
    assert.equal((await ask([...ids, 8], { tenant: "a" })).cachedTokens, 23);
    backend.failNext = new Error("boom");
    await assert.rejects(ask([...PREFIX, 7], { tenant: "b" }), /boom/);
    assert.deepEqual((await ask([...PREFIX, 7], { tenant: "b" })).cache.fromPublic, 0);
    assert.deepEqual(await counts([...PREFIX, 7], { tenant: "c" }), [0, 20, 1]);
  });

  test("is in the plan", async () => {
    const { engine, ask } = await withPrefix();
    const request = { prompt: { ids: [...PREFIX, 7, 8] }, session: { id: "s", tenant: "a" } };
    const before = await engine.sessions.plan(request);
    assert.deepEqual([before.reusedTokens, before.publicTokens, before.newTokens], [0, 20, 2]);
    assert.ok(before.predictedTtftMs! >= 0);
    await ask(request.prompt.ids, request.session);
    const after = await engine.sessions.plan(request);
    assert.deepEqual([after.reusedTokens, after.publicTokens, after.newTokens], [21, 0, 1]);
    const off = await engine.sessions.plan({ ...request, cache: "off" });
    assert.deepEqual([off.reusedTokens, off.publicTokens], [0, 0]);
  });
});

describe("Engine.publishPrompts()", () => {
  test("finds what every prompt of a system message begins with, whatever the user says first", async () => {
    const { engine, backend } = fakeEngine();
    backend.info.kvShares = true;
    await engine.publishPrompts([SYSTEM]);
    const prefix = [...backend.caches][0]!.ids;
    assert.ok(engine.tokenizer.decode(prefix).includes(SYSTEM));
    const system = { role: "system", content: SYSTEM };
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.string(), fc.string({ unit: "binary" })), async (content) => {
        const prompt = { messages: [system, { role: "user", content }] };
        const { cache } = (await collect(engine.generate({ prompt, maxTokens: 0 }))).end.usage;
        assert.equal(cache.fromPublic, prefix.length);
      }),
      { numRuns: 100 },
    );
    const other = { messages: [{ ...system, content: `${SYSTEM} ` }, { role: "user", content: "Hi" }] };
    assert.equal((await collect(engine.generate({ prompt: other, maxTokens: 0 }))).end.usage.cache.fromPublic, 0);
  });

  test("takes the place of what was public before", async () => {
    const { engine, backend, counts } = await withPrefix();
    await engine.publishPrompts([{ ids: [1, 2, 3] }, { ids: PREFIX }]);
    assert.equal(
      backend.passes.reduce((sum, { tokens }) => sum + tokens, 0),
      21 + 4,
      "what stays is not evaluated again",
    );
    await engine.publishPrompts([{ ids: [1, 2, 3] }]);
    assert.deepEqual(await counts([...PREFIX, 7]), [0, 0, 21]);
    assert.deepEqual(await counts([1, 2, 3, 7]), [0, 3, 1]);
    await engine.publishPrompts([]);
    assert.deepEqual([backend.caches.size, engine.sessions.stats().hotBytes], [0, 0]);
  });

  test("refuses what can never be shared, and says why", async () => {
    const withoutSystem = "{% for m in messages if m.role == 'user' %}<|im_start|>{{ m.content }}{% endfor %}";
    const refused: [options: FakeEngineOptions, prompt: string | { ids: number[] }, why: RegExp][] = [
      [{ chatTemplate: withoutSystem }, SYSTEM, /leaves system messages out/],
      [{ chatTemplate: "{{ raise_exception('no system') }}" }, SYSTEM, /no system/],
      [{ contextLength: 20 }, SYSTEM, /20/],
      [{ kvBudgetBytes: 30 * FAKE_BYTES_PER_TOKEN }, { ids: PREFIX }, /20 tokens take 420 .* the budget is 300/],
      [{ vocabSize: 15 }, { ids: PREFIX }, /token id 15/],
      [{}, { ids: [] }, /no tokens/],
    ];
    for (const [options, prompt, why] of refused) {
      const { engine, backend } = fakeEngine(options);
      backend.info.kvShares = true;
      await engine.publishPrompts([{ ids: [3, 4] }]);
      await assert.rejects(engine.publishPrompts([{ ids: [1, 2] }, prompt]), (error: Error) => {
        assert.match(error.message, /^Cannot use public prompt 2: /);
        assert.match(error.message, why);
        return error instanceof RangeError;
      });
      assert.deepEqual([...backend.caches].map(({ ids }) => ids), [[3, 4]], "as before");
    }
  });
});
