import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import { BLOCK_TOKENS } from "../../../src/backend/simd/wasm_engine.ts";
import { OutOfMemoryError } from "../../../src/errors.ts";
import type { KvCache } from "../../../src/kv/kv_cache.ts";
import { tinyModel } from "../tiny_model.ts";

const CONTEXT = 1024;

const row = fc.record({
  sequence: fc.nat(2),
  tokenIds: fc.array(fc.nat(39), { minLength: 1, maxLength: 300, size: "max" }),
  logits: fc.constantFrom("none" as const, "last" as const, "all" as const),
  hiddenStates: fc.boolean(),
  inspect: fc.constantFrom([], [], [], [1], [0, 1]),
});
const step = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("pass" as const),
      rows: fc.uniqueArray(row, { minLength: 1, maxLength: 3, selector: ({ sequence }) => sequence }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ kind: fc.constantFrom("copy", "fork", "empty"), sequence: fc.nat(2) }) },
);
const program = fc.record({
  /** What other caches leave of the heap, in blocks. */
  room: fc.nat(120),
  steps: fc.array(step, { minLength: 4, maxLength: 8, size: "max" }),
});

type Inspect = readonly [] | readonly [1] | readonly [0, 1];

/** A pass over some rows of equal tokens. */
const pass = (...rows: [sequence: number, tokens: number, logits: "none" | "last" | "all", inspect: Inspect][]) => ({
  kind: "pass" as const,
  rows: rows.map(([sequence, tokens, logits, inspect]) => ({
    sequence,
    tokenIds: Array<number>(tokens).fill(1),
    logits,
    hiddenStates: inspect.length !== 1,
    inspect,
  })),
});
/** Found at random: small vectors had no room when the last pass began. */
const NO_SPARE = {
  room: 3,
  steps: [
    pass([0, 97, "last", []]),
    pass([1, 72, "none", [1]]),
    pass([2, 233, "last", []]),
    pass([0, 126, "all", [0, 1]], [1, 265, "last", []]),
  ],
};

test("in a full heap anything works or is refused, changes nothing then, and stops no thread", async () => {
  await using model = await tinyModel(CONTEXT);
  const { path: modelDir, config } = model;
  await using backend = await createSimdBackend({ modelDir, config, threads: 2, maxHeapBytes: 13 * 2 ** 20 });
  await using roomy = await createSimdBackend({ modelDir, config, threads: 1 });
  let [done, refused] = [0, 0];
  const counts = { done: 0, refused: 0 };
  /** @returns `undefined` where there was no room */
  const attempt = async <T>(work: () => Promise<T>): Promise<T | undefined> => {
    try {
      const result = await work();
      done++;
      return result;
    } catch (error) {
      assert.ok(error instanceof OutOfMemoryError, error as Error);
      assert.match(error.message, /the WASM heap is full at 13 MiB/);
      refused++;
      return undefined;
    }
  };
  /** A block each. */
  const others: KvCache[] = [];
  const fill = async () => {
    for (;;) {
      const cache = backend.createKvCache();
      const tokenIds = Array<number>(BLOCK_TOKENS).fill(1);
      if (!await attempt(() => backend.forward([{ cache, tokenIds, logits: "none" }]))) return cache.dispose();
      others.push(cache);
    }
  };
  await fc.assert(
    fc.asyncProperty(program, async ({ room, steps }) => {
      await fill();
      assert.ok(backend.kvBytes(BLOCK_TOKENS * others.length) >= backend.info.kvRoomBytes!, "as much as was promised");
      const before = [done, refused];
      for (const cache of others.splice(0, room)) cache.dispose();
      const sequences = Array.from({ length: 3 }, () => ({ ids: [] as number[], cache: backend.createKvCache() }));
      for (const step of steps) {
        if (step.kind === "pass" && "rows" in step) {
          const fitting = step.rows.filter(({ sequence, tokenIds }) =>
            sequences[sequence]!.ids.length + tokenIds.length <= CONTEXT
          );
          const rows = fitting.map((row) => ({ ...row, cache: sequences[row.sequence]!.cache }));
          const got = await attempt(() => backend.forward(rows));
          if (!got) continue;
          for (const [i, { sequence, tokenIds, logits, hiddenStates, inspect }] of fitting.entries()) {
            const { ids } = sequences[sequence]!;
            using cache = roomy.createKvCache();
            if (ids.length > 0) await roomy.forward([{ cache, tokenIds: ids, logits: "none" }]);
            const [want] = await roomy.forward([{ cache, tokenIds, logits, hiddenStates, inspect }]);
            assert.deepEqual(got[i], want);
            ids.push(...tokenIds);
          }
        } else if ("sequence" in step) {
          const one = sequences[step.sequence]!;
          const other = sequences[(step.sequence + 1) % 3]!;
          if (step.kind === "empty") one.cache.truncate(one.ids.length = 0);
          else if (step.kind === "fork") {
            other.cache.dispose();
            Object.assign(other, { cache: one.cache.fork(), ids: [...one.ids] });
          } else {
            const bytes = await backend.exportKv(one.cache);
            const cache = await attempt(() => backend.importKv(bytes, one.ids.length));
            if (!cache) continue;
            other.cache.dispose();
            Object.assign(other, { cache, ids: [...one.ids] });
          }
        }
        for (const { cache, ids } of sequences) assert.equal(cache.length, ids.length);
      }
      for (const { cache } of sequences) cache.dispose();
      assert.equal((await backend.stats()).kvBlocks, others.length);
      assert.equal(backend.failure, undefined);
      counts.done += done - before[0]!;
      counts.refused += refused - before[1]!;
    }),
    { numRuns: 60, examples: [[NO_SPARE]] },
  );
  console.log(`${counts.done} passes and imports that found room, ${counts.refused} that did not`);
  assert.ok(counts.done > 50 && counts.refused > 50);
});
