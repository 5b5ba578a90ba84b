import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { GenerateRequest } from "../../src/engine/generate_request.ts";
import { OutOfMemoryError } from "../../src/errors.ts";
import { collect, fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";

const VOCAB = 40;

/** Mostly a function of the last token, so that the text repeats itself; now and then something else. */
const repeating = (ids: readonly number[]) =>
  ids.length % 7 === 3 ? (ids[0]! + ids.length) % VOCAB : (ids.at(-1)! * 5 + 3) % 11;

/** Tokens with their log-probabilities, and what was counted. */
async function run(options: FakeEngineOptions, request: GenerateRequest) {
  const { engine, backend } = fakeEngine({ vocabSize: VOCAB, next: repeating, ...options });
  const tokens: [number, number][] = [];
  for await (const event of engine.generate(request)) {
    if (event.type === "token") tokens.push([event.id, event.logprob]);
    else if (event.type === "end") return { engine, backend, tokens, usage: event.usage };
  }
  throw new Error("the stream ended without an end event");
}

describe("prompt lookup", () => {
  test("gives the same tokens with the same probabilities, greedy and sampled", async () => {
    let accepted = 0;
    let rejected = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          ids: fc.array(fc.nat(10), { minLength: 1, maxLength: 30 }),
          maxTokens: fc.nat(40),
          temperature: fc.constantFrom(0, 1.5, 6),
          repetitionPenalty: fc.constantFrom(1, 1.2),
          contextLength: fc.integer({ min: 35, max: 200 }),
        }),
        async ({ ids, maxTokens, temperature, repetitionPenalty, contextLength }) => {
          const request: GenerateRequest = {
            prompt: { ids },
            maxTokens: Math.min(maxTokens, contextLength - ids.length),
            ignoreEos: true,
            session: { id: "s" },
            sampling: { doSample: temperature > 0, temperature, repetitionPenalty, seed: 7 },
          };
          const plain = await run({ promptLookup: "off", contextLength }, request);
          const drafted = await run({ promptLookup: "always", contextLength }, request);
          assert.deepEqual(drafted.tokens, plain.tokens);
          const { drafts, ...counts } = drafted.usage;
          assert.deepEqual({ ...counts, drafts: { accepted: 0, rejected: 0 } }, plain.usage);
          // The last token needs no pass, and a draft saves one.
          const decodePasses = drafted.backend.passes.filter(({ start }) => start >= ids.length).length;
          assert.equal(decodePasses, Math.max(0, plain.tokens.length - 1) - drafts.accepted);
          const [cache] = drafted.backend.caches;
          const evaluated = [...ids, ...plain.tokens.slice(0, -1).map(([id]) => id)];
          assert.deepEqual(cache!.ids, evaluated, "drafts that did not come true are taken back");
          const reached = Math.max(...drafted.backend.passes.map(({ start, tokens }) => start + tokens));
          assert.ok(reached <= ids.length + Math.max(0, request.maxTokens! - 1), "nothing is drafted past the end");
          accepted += drafts.accepted;
          rejected += drafts.rejected;
        },
      ),
      { numRuns: 240 },
    );
    assert.ok(accepted > 100 && rejected > 100, `${accepted} accepted, ${rejected} rejected`);
  });

  test("drafts nothing past an end token", async () => {
    const [a, b, eos, c] = [30, 31, 2, 32];
    const next = (ids: readonly number[]) => ids.at(-1) === a ? b : ids.at(-1) === b ? eos : a;
    const { usage, backend } = await run({ promptLookup: "always", next }, {
      prompt: { ids: [5, 6, a, b, eos, c, 7, 5, 6] },
    });
    assert.deepEqual(usage.drafts, { accepted: 1, rejected: 0 });
    assert.deepEqual(backend.passes.at(-1), { tokens: 2, start: 9 });
  });

  test("a draft that memory is missing for costs nobody an answer, nor idle KV", async () => {
    const { engine, backend } = fakeEngine({ vocabSize: VOCAB, promptLookup: "always", next: () => 9 });
    await collect(engine.generate({ prompt: { ids: [1, 2] }, maxTokens: 1, session: { id: "idle" } }));
    const { forward } = backend;
    backend.forward = async (rows) => {
      if (rows.some(({ logits }) => logits === "all")) {
        throw new OutOfMemoryError("Cannot run a pass: the heap is full");
      }
      return await forward.call(backend, rows);
    };
    const request = { prompt: { ids: [9, 9, 9, 9] }, maxTokens: 10, ignoreEos: true, session: { id: "s" } };
    const { ids, end } = await collect(engine.generate(request));
    assert.deepEqual(ids, Array(10).fill(9));
    assert.deepEqual(end.usage.drafts, { accepted: 0, rejected: 0 });
    assert.equal(engine.sessions.describe("idle").state, "hot");
  });

  test("stays off where more rows change the bits", async () => {
    const { engine, backend } = fakeEngine({ vocabSize: VOCAB, next: repeating, promptLookup: "always" });
    Object.assign(backend.info, { rowInvariant: false });
    const { Engine } = await import("../../src/engine/engine.ts");
    const careful = new Engine(engine.model, backend, { kvBudgetBytes: 2 ** 30, promptLookup: "always" });
    const { end } = await collect(
      careful.generate({ prompt: { ids: [1, 2, 3, 1, 2, 3] }, maxTokens: 20, ignoreEos: true }),
    );
    assert.deepEqual(end.usage.drafts, { accepted: 0, rejected: 0 });
    assert.ok(backend.passes.slice(1).every(({ tokens }) => tokens === 1));
  });

  test("a cancelled answer takes its drafts back", async () => {
    const { engine, backend } = fakeEngine({ vocabSize: VOCAB, promptLookup: "always", next: () => 9 });
    const generation = await engine.start({
      prompt: { ids: [9, 9, 9, 9] },
      maxTokens: 30,
      ignoreEos: true,
      session: { id: "s", onAbort: "keep_partial" },
    });
    let tokens = 0;
    for await (const _ of generation) {
      if (++tokens < 3) continue;
      assert.ok([...backend.caches][0]!.length > 6, "drafts are there");
      break;
    }
    await generation.settled;
    assert.equal([...backend.caches][0]!.length, 6);
    assert.equal(engine.sessions.inspect("s").cachedTokens, 6);
  });
});
