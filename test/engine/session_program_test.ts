import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { OutOfMemoryError } from "../../src/errors.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { FAKE_BYTES_PER_TOKEN, type FakeBackend } from "../fakes/fake_backend.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";

const VOCAB = 50;
const RUNS = 400;

/** One step of a random program. */
const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("append"),
      ids: fc.array(fc.nat(VOCAB - 1), { minLength: 1, maxLength: 12 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("edit"), at: fc.nat(30), id: fc.nat(VOCAB - 1) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("rewind"), to: fc.nat(30) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("regenerate") }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("delete") }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("fail") }) },
);
const turn = fc.record({
  session: fc.constantFrom("a", "b", "c"),
  step,
  maxTokens: fc.nat(8),
  /** Cancel after so many events; never when absent. */
  cancelAfter: fc.option(fc.nat(6), { nil: undefined }),
  /** Whether the turn runs beside the next one. */
  overlap: fc.boolean(),
});

/** Tokens of a greedy run from nothing, without engine, session or cache. */
function oracle(backend: FakeBackend, prompt: readonly number[], count: number): number[] {
  const ids = [...prompt];
  for (let n = 0; n < count; n++) ids.push(backend.next(ids));
  return ids.slice(prompt.length);
}

/** Runs one turn; resolves to its tokens and whether it reached its end. */
async function play(engine: Engine, prompt: number[], session: string, maxTokens: number, cancelAfter?: number) {
  const generation = await engine.start({
    prompt: { ids: prompt },
    maxTokens,
    ignoreEos: true,
    session: { id: session },
  });
  const ids: number[] = [];
  let events = 0;
  if (cancelAfter === 0) generation.cancel();
  try {
    for await (const event of generation) {
      if (event.type === "token") ids.push(event.id);
      if (++events === cancelAfter) generation.cancel();
    }
    return { ids, complete: true };
  } catch (error) {
    const name = (error as Error).name;
    if (name !== "AbortError" && (error as Error).message !== "pass failed") throw error;
    return { ids, complete: false };
  }
}

test("random programs of turns give the tokens of cache-free runs, and leak nothing", async () => {
  let turnsPlayed = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(turn, { maxLength: 25 }),
      fc.integer({ min: 1, max: 9 }),
      fc.constantFrom("auto", "always"),
      async (program, prefillChunk, promptLookup) => {
        const { engine, backend } = fakeEngine({
          vocabSize: VOCAB,
          prefillChunk,
          promptLookup,
          // Of all tokens, so that one wrong cached token changes everything; or a text that repeats itself.
          next: promptLookup === "always" ? (ids) => (ids.at(-1)! * 7 + Number(ids.length % 9 === 0)) % 13 : undefined,
          kvBudgetBytes: 150 * FAKE_BYTES_PER_TOKEN,
        });
        const transcripts = new Map<string, number[]>();
        const overlapping = new Map<string, Promise<void>>();
        for (const { session, step, maxTokens, cancelAfter, overlap } of program) {
          await overlapping.get(session);
          let ids = transcripts.get(session) ?? [1];
          if (step.kind === "append") ids = [...ids, ...step.ids];
          else if (step.kind === "edit") ids = ids.with(step.at % ids.length, step.id);
          else if (step.kind === "rewind") ids = ids.slice(0, Math.max(1, step.to % ids.length));
          else if (step.kind === "delete") engine.sessions.delete(session);
          else if (step.kind === "fail") backend.failNext = new Error("pass failed");
          if (ids.length > 80) ids = ids.slice(0, 10);
          const running = play(engine, ids, session, maxTokens, cancelAfter).then((answer) => {
            turnsPlayed++;
            const expected = oracle(backend, ids, maxTokens);
            assert.deepEqual(answer.ids, answer.complete ? expected : expected.slice(0, answer.ids.length));
            transcripts.set(session, [...ids, ...answer.ids]);
          }, (error) => assert.ok(error instanceof OutOfMemoryError, error));
          overlapping.set(session, running);
          if (!overlap) await running;
          assert.ok(engine.sessions.stats().kvBytes <= 150 * FAKE_BYTES_PER_TOKEN);
        }
        await Promise.all(overlapping.values());
        // Counts are exact once nothing runs.
        const held = [...backend.caches].reduce((bytes, cache) => bytes + cache.bytes, 0);
        assert.equal(engine.sessions.stats().kvBytes, held);
        await engine[Symbol.asyncDispose]();
        assert.equal(backend.caches.size, 0);
      },
    ),
    { numRuns: RUNS },
  );
  console.log(`${RUNS} programs, ${turnsPlayed} turns`);
});
