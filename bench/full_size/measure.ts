/**
 * A model on `simd` from its load to the end of its context, in a process of its own: `measure.ts --model folder
 * --threads N [--quick]` prints one line, {@linkcode FullSize}.
 */
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { findDecoderWeights } from "../../src/backend/simd/decoder_weights.ts";
import { loadKernels } from "../../src/backend/simd/kernels.ts";
import { packedBytes } from "../../src/backend/simd/load_weights.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { startPoolThreads, ThreadPool } from "../../src/backend/simd/thread_pool.ts";
import type { KvCache } from "../../src/kv/kv_cache.ts";
import { readDecoderGraph } from "../../src/model/decoder_graph.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { onnxFile } from "../../src/model/onnx_file.ts";
import { readOnnx } from "../../src/model/read_onnx.ts";
import { TensorFiles } from "../../src/model/tensor_bytes.ts";
import { milliseconds } from "../statistics.ts";

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
const decodeMs = await fastest(cache);
await fill(cache, contextLength - 1);
const longest = { context: contextLength, ms: await fastest(cache), kvMiB: backend.kvBytes(contextLength) / 2 ** 20 };
await fill(cache, contextLength);
const refusal = await backend.forward([{ cache, tokenIds: [1] }]).then(() => "", (error: Error) => error.message);
if (!refusal.includes(`${contextLength + 1} tokens`)) {
  throw new Error(`Cannot go on: token ${contextLength + 1} gave "${refusal}", wanted a refusal with the counts`);
}
const kvBytes = backend.kvBytes(CONTEXT);
await backend[Symbol.asyncDispose]();

const kernels = (await loadKernels())!;
const { keptBytes, readBytes } = weightBytes();
const measured: FullSize = {
  id,
  loadMs,
  keptMiB: keptBytes / 2 ** 20,
  peakMiB,
  readGBs: await readSpeed(),
  decode: { ms: decodeMs, bytes: readBytes + kvBytes },
  longest,
  refusal,
};
console.log(JSON.stringify(measured));
process.exit(0);

/** All that the engine keeps, and what of it a token reads: one row of a table of embeddings. */
function weightBytes() {
  const onnx = onnxFile(path);
  using files = new TensorFiles(onnx);
  const weights = findDecoderWeights(readDecoderGraph(readOnnx(onnx), config), files, config);
  const keptBytes = packedBytes(kernels, weights);
  const { embedding } = weights;
  return { keptBytes, readBytes: keptBytes - ("values" in embedding ? 2 * embedding.n * embedding.k : 0) };
}

/** GB/s of a loop that only reads. */
async function readSpeed(): Promise<number> {
  const { exports, memory } = kernels;
  const pool = await ThreadPool.start(kernels, threads, startPoolThreads(threads));
  const pointer = exports.allocate(READ_BYTES) >>> 0;
  if (pointer === 0) throw new Error(`Cannot measure reading: the heap has no ${READ_BYTES} bytes`);
  // Memory that was never written is one page, which caches hold.
  new Uint8Array(memory.buffer, pointer, READ_BYTES).fill(1);
  let best = Infinity;
  for (let i = 0; i < repeats; i++) {
    best = Math.min(best, await milliseconds(() => Promise.resolve(exports.read_shared(pointer, READ_BYTES))));
  }
  await pool.close();
  return READ_BYTES / best / 1e6;
}

/** Evaluates tokens until the cache has so many. */
async function fill(cache: KvCache, tokens: number): Promise<void> {
  while (cache.length < tokens) {
    const tokenIds = ids(cache.length, Math.min(CHUNK, tokens - cache.length));
    await backend.forward([{ cache, tokenIds, logits: "none" }]);
  }
}

/** Milliseconds of one token more, which is taken back. */
async function fastest(cache: KvCache): Promise<number> {
  const { length } = cache;
  let best = Infinity;
  for (let i = 0; i < repeats; i++) {
    best = Math.min(
      best,
      await milliseconds(async () => {
        const [row] = await backend.forward([{ cache, tokenIds: ids(length, 1) }]);
        if (!row!.logits.every(Number.isFinite)) throw new Error("Cannot time a pass: its logits are not finite");
      }),
    );
    cache.truncate(length);
  }
  return best;
}

function ids(from: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => (100 + 7919 * (from + i + 1)) % vocabSize);
}

function statusMiB(field: string): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024;
}
