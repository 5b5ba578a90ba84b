import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { GenerateRequest } from "../../src/engine/generate_request.ts";
import { collect, fakeEngine } from "../fakes/fake_engine.ts";

/** Ends an answer. */
const STOP = 2;

/** A short way from the prompt to an end token, then on. */
const next = (ids: readonly number[]) => ids.length === 24 ? STOP : 20 + ids.length;

/** One answer by a backend that follows rows by so many steps. */
async function answer(follows: number, request: Partial<GenerateRequest>) {
  const { engine, backend } = fakeEngine({ vocabSize: 100, next, promptLookup: "off" });
  backend.follows = follows;
  const prompt = { ids: [1, 2, 3] };
  const { ids, end } = await collect(engine.generate({ prompt, maxTokens: 30, ...request }));
  return { ids, end, backend };
}

describe("steps that follow a row", () => {
  const requests: Partial<GenerateRequest>[] = [
    {},
    { maxTokens: 10 },
    { session: { id: "s" } },
    { sampling: { doSample: true, temperature: 1.5, seed: 3 } },
  ];
  for (const request of requests) {
    test(`change nothing of an answer with ${JSON.stringify(request)}`, async () => {
      const [alone, followed] = [await answer(0, request), await answer(3, request)];
      assert.deepEqual(followed.ids, alone.ids);
      assert.deepEqual(followed.end.usage, alone.end.usage);
      assert.deepEqual(followed.backend.passes, alone.backend.passes);
    });
  }

  test("save the passes that they are taken in", async () => {
    const { engine, backend } = fakeEngine({ vocabSize: 100, next, promptLookup: "off" });
    backend.follows = 3;
    let rows = 0;
    const forward = backend.forward.bind(backend);
    backend.forward = (given) => {
      rows++;
      return forward(given);
    };
    await collect(engine.generate({ prompt: { ids: [1, 2, 3] }, maxTokens: 17, ignoreEos: true }));
    // The prompt, then 16 tokens in fours.
    assert.equal(rows, 5);
  });

  test("are given back where the answer ends before them", async () => {
    const { engine, backend } = fakeEngine({ vocabSize: 100, next, promptLookup: "off" });
    backend.follows = 8;
    const session = { id: "s", onAbort: "keep_partial" } as const;
    const abort = new AbortController();
    const request = { prompt: { ids: [1, 2, 3] }, session, maxTokens: 30, ignoreEos: true };
    let tokens = 0;
    await assert.rejects(async () => {
      for await (const event of engine.generate(request, { signal: abort.signal })) {
        if (event.type === "token" && ++tokens === 4) abort.abort(new Error("enough"));
      }
    }, /enough/);
    const [cache] = backend.caches;
    // The prompt and what was read, but for its last token, which nobody asked to evaluate.
    assert.equal(cache!.length, 3 + 3);
  });
});
