import assert from "node:assert/strict";
import fc from "fast-check";
import { after, before, describe, test } from "node:test";
import type { Backend } from "../../../src/backend/backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import type { KvCache } from "../../../src/kv/kv_cache.ts";
import { type TinyModel, tinyModel } from "../tiny_model.ts";
import { collect } from "../../kv/collect.ts";

const BLOCK = 16;

/** One step of a program over several caches; numbers are taken modulo what there is. */
type Step =
  | { kind: "append"; cache: number; tokens: number[] }
  | { kind: "fork" | "truncate"; cache: number; share: number }
  | { kind: "dispose"; cache: number }
  | { kind: "copy"; cache: number };

const cache = fc.nat(20);
const share = fc.double({ min: 0, max: 1, noNaN: true });
const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    fc.record({
      kind: fc.constant("append" as const),
      cache,
      tokens: fc.array(fc.nat(39), { minLength: 1, maxLength: 40 }),
    }),
    fc.record({ kind: fc.constantFrom("fork" as const, "truncate" as const), cache, share }),
    fc.record({ kind: fc.constant("dispose" as const), cache }),
    fc.record({ kind: fc.constant("copy" as const), cache }),
  ),
  { minLength: 4, maxLength: 24 },
);

for (const kv of ["f32", "int8"] as const) {
  describe(`simd's KV, ${kv}`, () => {
    let model: TinyModel;
    let backend: Backend;
    before(async () => {
      model = await tinyModel();
      backend = await createSimdBackend({ modelDir: model.path, config: model.config, kv, threads: 2 });
    });
    after(async () => {
      await backend[Symbol.asyncDispose]();
      await model[Symbol.asyncDispose]();
    });

    test("any program of forks, copies and cuts gives the bits of a run without a cache, and leaks no block", async () => {
      await fc.assert(
        fc.asyncProperty(steps, async (program) => {
          const caches: { kv: KvCache; ids: number[] }[] = [];
          for (const step of program) {
            const at = caches.length === 0 ? -1 : step.cache % caches.length;
            const one = caches[at] ?? { kv: backend.createKvCache(), ids: [] };
            if (at < 0) caches.push(one);
            if (step.kind === "append") {
              if (one.ids.length + step.tokens.length > model.config.contextLength) continue;
              one.ids.push(...step.tokens);
              const [got] = await backend.forward([{ cache: one.kv, tokenIds: step.tokens }]);
              const [want] = await backend.forward([{ tokenIds: one.ids }]);
              assert.deepEqual(got!.logits, want!.logits);
            } else if (step.kind === "dispose") {
              one.kv.dispose();
              caches.splice(caches.indexOf(one), 1);
            } else if (step.kind === "copy") {
              const copy = await backend.importKv(backend.exportKv(one.kv), one.ids.length);
              caches.push({ kv: copy, ids: [...one.ids] });
            } else {
              const length = Math.floor(step.share * one.ids.length);
              if (step.kind === "fork") caches.push({ kv: one.kv.fork(length), ids: one.ids.slice(0, length) });
              else one.kv.truncate(one.ids.length = length);
            }
            for (const { kv, ids } of caches) assert.equal(kv.length, ids.length);
          }
          for (const { kv } of caches) kv.dispose();
          assert.deepEqual(await backend.stats(), { kvBlocks: 0, kvBytes: 0 });
        }),
        { numRuns: 25 },
      );
    });

    test("a fork copies nothing until one of the two is written, and then one block", async () => {
      using origin = backend.createKvCache();
      await backend.forward([{ cache: origin, tokenIds: Array.from({ length: 40 }, (_, i) => i % 40) }]);
      const before = await backend.stats();
      assert.deepEqual(before, { kvBlocks: 3, kvBytes: backend.kvBytes(3 * BLOCK) });
      assert.equal(origin.bytes, before.kvBytes);
      using fork = origin.fork();
      assert.deepEqual(await backend.stats(), before);
      await backend.forward([{ cache: fork, tokenIds: [1] }]);
      assert.equal((await backend.stats()).kvBlocks, 4);
      await backend.forward([{ cache: origin, tokenIds: [2] }]);
      assert.equal((await backend.stats()).kvBlocks, 4);
      using short = origin.fork(BLOCK);
      await backend.forward([{ cache: short, tokenIds: [3] }]);
      assert.equal((await backend.stats()).kvBlocks, 5);
    });

    test("a cache that was cut counts what it holds, and less from its next pass on", async () => {
      using cache = backend.createKvCache();
      const held = async () => [cache.bytes, (await backend.stats()).kvBytes];
      const blocks = (count: number) => [backend.kvBytes(count * BLOCK), backend.kvBytes(count * BLOCK)];
      await backend.forward([{ cache, tokenIds: Array<number>(5 * BLOCK).fill(1), logits: "none" }]);
      cache.truncate(BLOCK + 1);
      assert.deepEqual(await held(), blocks(5));
      await backend.forward([{ cache, tokenIds: [1] }]);
      assert.deepEqual(await held(), blocks(2));
    });

    test("exported bytes are a function of the tokens, and hold nothing of others", async () => {
      using longer = backend.createKvCache();
      await backend.forward([{ cache: longer, tokenIds: [1, 2, 3, 4, 5, 6, 7, 8], logits: "none" }]);
      longer.truncate(3);
      using fresh = backend.createKvCache();
      await backend.forward([{ cache: fresh, tokenIds: [1, 2, 3], logits: "none" }]);
      assert.deepEqual(await collect(backend.exportKv(longer)), await collect(backend.exportKv(fresh)));
    });

    test("refuses what cannot be forked or imported", async () => {
      const one = backend.createKvCache();
      await backend.forward([{ cache: one, tokenIds: [1, 2, 3] }]);
      assert.throws(() => one.fork(4), { name: "RangeError", message: /Cannot fork 4 tokens: the cache holds 3/ });
      assert.throws(() => one.fork(-1), RangeError);
      const bytes = await collect(backend.exportKv(one));
      assert.equal(bytes.length, backend.kvBytes(3));
      await assert.rejects(backend.importKv([bytes], BLOCK + 1), {
        name: "RangeError",
        message: /17 tokens: \d+ bytes, wanted \d+/,
      });
      await assert.rejects(backend.importKv([bytes], 100_000), { name: "RangeError", message: /the context holds/ });
      await assert.rejects(backend.importKv([bytes], 1.5), RangeError);
      one.dispose();
      assert.throws(() => one.fork(), TypeError);
      await assert.rejects(collect(backend.exportKv(one)), TypeError);
      assert.equal((await backend.stats()).kvBlocks, 0);
    });
  });
}
