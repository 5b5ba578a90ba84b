/**
 * A model on `simd` from its load to the end of its context, in a process of its own: `measure.ts --model folder
 * --threads N [--quick]` prints one line, {@linkcode FullSize}.
 */
import { parseArgs } from "node:util";
import { loadKernels } from "../../src/backend/simd/kernels.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { startPool } from "../kernels/pool.ts";
import type { KvCache } from "../../src/kv/kv_cache.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { contextIds, tokenMs } from "../context.ts";
import { statusMiB } from "../load/process_memory.ts";
import { weightBytes } from "../load/weight_bytes.ts";
import { best, milliseconds } from "../statistics.ts";

/** Times in milliseconds, of the fastest of several. */
export interface FullSize {
  id: string;
  loadMs: number;
  /** Weights as the engine keeps them, in MiB. */
  keptMiB: number;
  /** The most that was resident while it loaded, of the whole process, in MiB. */
  peakMiB: number;
  /** A loop that only reads a heap, with as many threads. */
  readGBs: number;
  /** A token after 100 tokens, and the bytes that it has to read. */
  decode: { ms: number; bytes: number };
  /** The last token that the context has room for. */
  longest: { context: number; ms: number; kvMiB: number };
  /** What the backend says to one token more. */
  refusal: string;
}

/** What the read loop goes over: more than caches hold. */
const READ_BYTES = 2 ** 30;
const CONTEXT = 100;
const CHUNK = 128;

const { values: flags } = parseArgs({
  options: { model: { type: "string" }, threads: { type: "string" }, quick: { type: "boolean", default: false } },
});
const threads = Number(flags.threads);
const repeats = flags.quick ? 2 : 16;
const { path, id, config } = await readModelFolder(flags.model!);
const { contextLength, vocabSize } = config;
const startedAt = performance.now();
const backend = await createSimdBackend({ modelDir: path, config, threads, kv: "int8" });
const loadMs = performance.now() - startedAt;
const peakMiB = statusMiB("VmHWM");

const cache = backend.createKvCache();
await fill(cache, CONTEXT);
const fastest = () => best(repeats, () => tokenMs(backend, cache, vocabSize));
const decodeMs = await fastest();
await fill(cache, contextLength - 1);
const longest = { context: contextLength, ms: await fastest(), kvMiB: backend.kvBytes(contextLength) / 2 ** 20 };
await fill(cache, contextLength);
const refusal = await backend.forward([{ cache, tokenIds: [1] }]).then(() => "", (error: Error) => error.message);
if (!refusal.includes(`${contextLength + 1} tokens`)) {
  throw new Error(`Cannot go on: token ${contextLength + 1} gave "${refusal}", wanted a refusal with the counts`);
}
const kvBytes = backend.kvBytes(CONTEXT);
await backend[Symbol.asyncDispose]();

const weights = await weightBytes({ path, config });
const measured: FullSize = {
  id,
  loadMs,
  keptMiB: weights.kept / 2 ** 20,
  peakMiB,
  readGBs: await readSpeed(),
  decode: { ms: decodeMs, bytes: weights.read + kvBytes },
  longest,
  refusal,
};
console.log(JSON.stringify(measured));
process.exit(0);

/** GB/s of a loop that only reads. */
async function readSpeed(): Promise<number> {
  const kernels = (await loadKernels())!;
  const { exports, memory } = kernels;
  const pool = await startPool(kernels, threads);
  const pointer = exports.allocate(READ_BYTES) >>> 0;
  if (pointer === 0) throw new Error(`Cannot measure reading: the heap has no ${READ_BYTES} bytes`);
  // Memory that was never written is one page, which caches hold.
  new Uint8Array(memory.buffer, pointer, READ_BYTES).fill(1);
  const read = () => Promise.resolve(exports.read_shared(pointer, READ_BYTES));
  const ms = await best(repeats, () => milliseconds(read));
  await pool.close();
  return READ_BYTES / ms / 1e6;
}

/** Evaluates tokens until the cache has so many. */
async function fill(cache: KvCache, tokens: number): Promise<void> {
  while (cache.length < tokens) {
    const tokenIds = contextIds(cache.length, Math.min(CHUNK, tokens - cache.length), vocabSize);
    await backend.forward([{ cache, tokenIds, logits: "none" }]);
  }
}
