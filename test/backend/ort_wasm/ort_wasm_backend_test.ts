import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Backend, ForwardRow } from "../../../src/backend/backend.ts";
import { createOrtWasmBackend, type OrtWasmOptions } from "../../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { BackendUnavailableError } from "../../../src/errors.ts";
import { llamaLogits } from "../../models/llama_reference.ts";
import { tinyGguf } from "../../models/tiny_gguf.ts";
import { type TinyModel, tinyModel } from "../tiny_model.ts";

const IDS = Array.from({ length: 200 }, (_, i) => (i * 7919 + 3) % 40);
const VOCAB = 40;

let model: TinyModel;
let backend: Backend;

const create = (options: Partial<OrtWasmOptions> = {}) =>
  createOrtWasmBackend({
    modelDir: model.path,
    config: model.config,
    threads: 2,
    memoryBudgetBytes: 2 ** 31,
    ...options,
  });

async function forward(target: Backend, row: ForwardRow) {
  const [result] = await target.forward([row]);
  return result!;
}

function maxDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  assert.equal(a.length, b.length);
  return Math.max(...Array.from(a, (value, i) => Math.abs(value - b[i]!)));
}

before(async () => {
  model = await tinyModel();
  backend = await create();
});
after(async () => {
  await backend[Symbol.asyncDispose]();
  await model[Symbol.asyncDispose]();
});

describe("ort-wasm", () => {
  test("gives the logits of the GGUF's weights", async () => {
    const ids = IDS.slice(0, 12);
    const want = llamaLogits(tinyGguf(), ids).flat();
    const { logits } = await forward(backend, { tokenIds: ids, logits: "all" });
    assert.ok(maxDifference(logits, want) < 1e-4 * Math.max(...want.map(Math.abs)));
  });

  test("keeps KV in the heap, and the public API gives the same bits", async () => {
    assert.match(backend.info.detail, /KV stays in the WASM heap/);
    await using api = await create({ session: "api" });
    assert.match(api.info.detail, /KV copied/);
    assert.equal(api.info.variant, backend.info.variant);
    using heapKv = backend.createKvCache();
    using apiKv = api.createKvCache();
    // Chunks, single tokens, capacity steps at 64, 96 and 128, and a replay after truncating.
    const steps: [number, number][] = [[0, 5], [5, 6], [6, 63], [63, 64], [64, 65], [65, 66], [66, 150], [40, 41], [
      41,
      90,
    ]];
    for (const [start, end] of steps) {
      heapKv.truncate(start);
      apiKv.truncate(start);
      const row = { tokenIds: IDS.slice(start, end), logits: "all", hiddenStates: true } as const;
      const a = await forward(backend, { ...row, cache: heapKv });
      const b = await forward(api, { ...row, cache: apiKv });
      assert.deepEqual(a, b, `tokens ${start} to ${end}`);
    }
  });

  test("a cached sequence gives what a row without cache gives, however it was cut", async () => {
    const { logits: whole } = await forward(backend, { tokenIds: IDS, logits: "all" });
    for (const cut of [1, 7, 64]) {
      using cache = backend.createKvCache();
      const parts: number[] = [];
      for (let start = 0; start < IDS.length; start += cut) {
        const { logits } = await forward(backend, { cache, tokenIds: IDS.slice(start, start + cut), logits: "all" });
        parts.push(...logits);
      }
      assert.equal(cache.length, IDS.length);
      assert.ok(maxDifference(parts, whole) < 1e-4, `in pieces of ${cut}`);
    }
  });

  test("truncating and going on another way leaves no trace", async () => {
    using cache = backend.createKvCache();
    await forward(backend, { cache, tokenIds: IDS.slice(0, 100), logits: "none" });
    cache.truncate(30);
    const other = IDS.slice(100, 130);
    const { logits } = await forward(backend, { cache, tokenIds: other });
    using fresh = backend.createKvCache();
    await forward(backend, { cache: fresh, tokenIds: IDS.slice(0, 30), logits: "none" });
    const { logits: want } = await forward(backend, { cache: fresh, tokenIds: other });
    assert.ok(maxDifference(logits, want) < 1e-5);
  });

  test("a fork and an imported copy go on as their origin does, and it goes on untouched", async () => {
    using cache = backend.createKvCache();
    await forward(backend, { cache, tokenIds: IDS.slice(0, 40), logits: "none" });
    using fork = cache.fork(30);
    using copy = await backend.importKv(backend.exportKv(fork), 30);
    const { logits: want } = await forward(backend, { tokenIds: IDS.slice(0, 45) });
    for (const one of [fork, copy]) {
      const { logits } = await forward(backend, { cache: one, tokenIds: IDS.slice(30, 45) });
      assert.ok(maxDifference(logits, want) < 1e-4);
    }
    const { logits } = await forward(backend, { cache, tokenIds: IDS.slice(40, 45) });
    assert.ok(maxDifference(logits, want) < 1e-4);
    await assert.rejects(backend.importKv([new Uint8Array(8)], 1), { name: "RangeError", message: /8 bytes, wanted/ });
  });

  test("returns as many positions as asked for", async () => {
    const tokenIds = IDS.slice(0, 9);
    const all = await forward(backend, { tokenIds, logits: "all", hiddenStates: true });
    assert.deepEqual([all.logits.length, all.hiddenStates?.length], [9 * VOCAB, 9 * model.config.hiddenSize]);
    const last = await forward(backend, { tokenIds });
    assert.equal(last.hiddenStates, undefined);
    assert.ok(maxDifference(last.logits, all.logits.subarray(8 * VOCAB)) < 1e-5);
    assert.equal((await forward(backend, { tokenIds, logits: "none" })).logits.length, 0);
  });

  test("the file's int4 weights give what the expanded ones give", async () => {
    await using int4 = await create({ weights: "int4" });
    assert.notEqual(int4.info.variant, backend.info.variant);
    const row: ForwardRow = { tokenIds: IDS.slice(0, 20), logits: "all" };
    assert.ok(maxDifference((await forward(int4, row)).logits, (await forward(backend, row)).logits) < 1e-4);
  });

  test("concurrent passes queue: each gives what it gives alone", async () => {
    const rows = Array.from({ length: 6 }, (_, i) => ({ tokenIds: IDS.slice(i, i + 10 + i) }));
    const together = await Promise.all(rows.map((row) => forward(backend, row)));
    for (const [i, row] of rows.entries()) assert.deepEqual(together[i], await forward(backend, row));
    assert.deepEqual(await backend.forward(rows), together);
  });

  test("counts the bytes that a cache reserves, in steps", async () => {
    using cache = backend.createKvCache();
    assert.equal(cache.bytes, 0);
    await forward(backend, { cache, tokenIds: IDS.slice(0, 65), logits: "none" });
    const { numHiddenLayers, numKeyValueHeads, headDim } = model.config;
    assert.equal(cache.bytes, 96 * 2 * numHiddenLayers * numKeyValueHeads * headDim * 4);
    assert.equal(cache.bytes, backend.kvBytes(65));
    cache.truncate(3);
    assert.equal(cache.bytes, backend.kvBytes(65));
    cache.dispose();
    assert.equal(cache.bytes, 0);
  });

  test("an abort takes effect between rows and tears none", async () => {
    const caches = Array.from({ length: 200 }, () => backend.createKvCache());
    const stop = new AbortController();
    const rows = caches.map((cache) => ({ cache, tokenIds: IDS.slice(0, 4) }));
    const pass = assert.rejects(backend.forward(rows, { signal: stop.signal }), /enough/);
    while (caches[0]!.length === 0) await new Promise((resolve) => setTimeout(resolve));
    stop.abort(new Error("enough"));
    await pass;
    const evaluated = caches.filter(({ length }) => length === 4).length;
    assert.ok(evaluated >= 1 && evaluated < 200, `${evaluated} rows`);
    assert.ok(caches.slice(evaluated).every(({ length }) => length === 0));
    for (const cache of caches) cache.dispose();
  });

  test("refuses what cannot be run, before it is run", async () => {
    const rejects = (row: ForwardRow, error: object) => assert.rejects(backend.forward([row]), error);
    await rejects({ tokenIds: [] }, { name: "RangeError", message: /no tokens/ });
    await rejects({ tokenIds: [VOCAB] }, { name: "RangeError", message: /token id 40, wanted 0 to 39/ });
    await rejects({ tokenIds: [0.5] }, { name: "RangeError" });
    await rejects({ tokenIds: Array(257).fill(1) }, {
      name: "RangeError",
      message: /257 tokens, the context holds 256/,
    });
    const disposed = backend.createKvCache();
    disposed.dispose();
    disposed.dispose();
    await rejects({ cache: disposed, tokenIds: [1] }, { name: "TypeError" });
    assert.throws(() => disposed.truncate(0), TypeError);
    using cache = backend.createKvCache();
    for (const length of [1, -1, 0.5]) assert.throws(() => cache.truncate(length), RangeError);
  });

  test("a backend that is closed says so, to passes in flight as well", async () => {
    const closing = await create();
    const cache = closing.createKvCache();
    const pass = closing.forward([{ cache, tokenIds: IDS }]);
    const failed = assert.rejects(pass, BackendUnavailableError);
    await new Promise((resolve) => setTimeout(resolve));
    await closing[Symbol.asyncDispose]();
    await failed;
    await assert.rejects(closing.forward([{ tokenIds: [1] }]), BackendUnavailableError);
    assert.ok(closing.failure instanceof BackendUnavailableError);
    assert.equal(backend.failure, undefined);
    cache.dispose();
  });
});
