import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend, ForwardRow, RowResult } from "../../../src/backend/backend.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import { BLOCK_TOKENS } from "../../../src/backend/simd/wasm_engine.ts";
import type { KvCache } from "../../../src/kv/kv_cache.ts";
import { type TinyModel, tinyModel } from "../tiny_model.ts";

const PROMPT = [3, 17, 39, 0, 17, 8];

describe("steps that follow a row on simd", () => {
  let model: TinyModel;
  let backend: Backend;
  before(async () => {
    model = await tinyModel();
    backend = await createSimdBackend({ modelDir: model.path, config: model.config, threads: 2 });
  });
  after(async () => {
    await backend[Symbol.asyncDispose]();
    await model[Symbol.asyncDispose]();
  });

  const forward = async (row: ForwardRow, on = backend): Promise<RowResult> =>
    (await on.forward([{ top: 1, ...row }]))[0]!;

  /** Best tokens one after another, each asked for. */
  async function asked(cache: KvCache, count: number): Promise<RowResult[]> {
    const results = [await forward({ cache, tokenIds: PROMPT })];
    while (results.length < count) {
      results.push(await forward({ cache, tokenIds: [results.at(-1)!.top![0]!.ids[0]!] }));
    }
    return results;
  }

  /** A neighbour may take the core for longer than steps may follow a row: then there are fewer, and it is tried again. */
  async function followed(row: ForwardRow, count: number, on = backend): Promise<RowResult> {
    const { length } = row.cache!;
    for (let i = 0; i < 50; i++) {
      const result = await forward(row, on);
      if (result.followed!.length === count) return result;
      row.cache!.truncate(length);
    }
    throw new Error(`Cannot go on: ${count} steps never followed the row`);
  }

  test("are those that would be asked for, to the bit, and the cache holds them", async () => {
    using one = backend.createKvCache();
    using other = backend.createKvCache();
    const wanted = await asked(one, 7);
    const follow = { steps: 5, stopIds: [] };
    const result = await followed({ cache: other, tokenIds: PROMPT, follow }, 5);
    const tops = [result.top![0]!, ...result.followed!.map(({ top }) => top)];
    assert.deepEqual(tops, wanted.slice(0, 6).map(({ top }) => top![0]));
    assert.deepEqual(result.followed!.map(({ id }) => id), tops.slice(0, -1).map(({ ids }) => ids[0]));
    assert.equal(other.length, PROMPT.length + 5);
    const next = await forward({ cache: other, tokenIds: [tops.at(-1)!.ids[0]!] });
    assert.deepEqual(next.top, wanted[6]!.top);
  });

  test("end before an end token, and before the context does", async () => {
    using cache = backend.createKvCache();
    const ids = (await asked(cache, 5)).map(({ top }) => top![0]!.ids[0]!);
    for (const id of ids) {
      cache.truncate(0);
      await followed({ cache, tokenIds: PROMPT, follow: { steps: 9, stopIds: [id] } }, ids.indexOf(id));
    }
    cache.truncate(0);
    const { contextLength } = model.config;
    const tokenIds = Array.from({ length: contextLength - 2 }, (_, i) => i % 40);
    await forward({ cache, tokenIds, logits: "none", top: undefined });
    await followed({ cache, tokenIds: [1], follow: { steps: 5, stopIds: [] } }, 1);
    assert.equal(cache.length, contextLength);
  });

  test("are none where rows share a pass", async () => {
    using one = backend.createKvCache();
    using other = backend.createKvCache();
    const follow = { steps: 5, stopIds: [] };
    const rows = [one, other].map((cache) => ({ cache, tokenIds: PROMPT, top: 1, follow }));
    for (const { followed } of await backend.forward(rows)) assert.equal(followed, undefined);
    assert.deepEqual([one.length, other.length], [PROMPT.length, PROMPT.length]);
  });

  test("are none while KV goes out or comes in, part by part, and follow again after that", async () => {
    using moved = backend.createKvCache();
    using cache = backend.createKvCache();
    const row = { cache, tokenIds: [5], follow: { steps: 3, stopIds: [] } };
    await forward({ cache: moved, tokenIds: PROMPT });
    const parts: Uint8Array[] = [];
    for await (const part of backend.exportKv(moved)) {
      parts.push(part.slice());
      assert.equal((await forward(row)).followed, undefined);
    }
    async function* betweenPasses() {
      assert.equal((await forward(row)).followed, undefined);
      yield* parts;
    }
    using _ = await backend.importKv(betweenPasses(), PROMPT.length);
    // Those that come to nothing hold up nothing either.
    for await (const _ of backend.exportKv(moved)) break;
    await assert.rejects(backend.importKv([], PROMPT.length), { name: "RangeError" });
    await followed(row, 3);
  });

  test("are refused where nothing says what they would be", async () => {
    using cache = backend.createKvCache();
    const follow = { steps: 5, stopIds: [] };
    for (const row of [{ top: 1 }, { cache }, { cache, top: 1, logits: "none" as const }]) {
      await assert.rejects(backend.forward([{ tokenIds: PROMPT, follow, ...row }]), {
        name: "TypeError",
        message: "Cannot follow a row: it has to have a cache, and to want its best logit",
      });
    }
  });

  test("end where KV memory does, and the row is answered", async () => {
    await using small = await createSimdBackend({
      modelDir: model.path,
      config: model.config,
      maxHeapBytes: 13 * 2 ** 20,
    });
    const caches: KvCache[] = [];
    const row = { tokenIds: Array.from({ length: BLOCK_TOKENS }, (_, i) => i) };
    for (let full = false; !full;) {
      const cache = small.createKvCache();
      try {
        await forward({ ...row, cache }, small);
        caches.push(cache);
      } catch (error) {
        assert.equal((error as Error).name, "OutOfMemoryError");
        full = true;
      }
    }
    const last = caches.at(-1)!;
    last.truncate(BLOCK_TOKENS - 3);
    const { top } = await followed({ cache: last, tokenIds: [5], follow: { steps: 9, stopIds: [] } }, 2, small);
    assert.equal(top!.length, 1);
    assert.equal(last.length, BLOCK_TOKENS);
  });
});
