import { OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import type { BackendStats, Followed, RowResult, TopLogits } from "../backend.ts";
import type { LoadProgress } from "../inference_thread.ts";
import type { ModelSession, PartedKv, SessionRow } from "../model_session.ts";
import { cutPasses, PASS_TOKENS, type RowPart } from "./cut_passes.ts";
import type { DecoderWeights } from "./decoder_weights.ts";
import type { Kernels } from "./kernels.ts";
import { allocate, loadWeights } from "./load_weights.ts";
import type { ThreadPool } from "./thread_pool.ts";
import { type ActivationType, BLOCK_TOKENS, KV_TYPES, type KvType, type WasmEngine } from "./wasm_engine.ts";
import { copyWatched, type WatchedPass } from "./watched_layers.ts";

/** `forward`'s wishes. */
const LOGITS = { none: 0, last: 1, all: 2 } as const;

/** Numbers that describe a row to `forward`: sequence, start, tokens, logits. */
const ROW_NUMBERS = 4;

/** How long steps may follow one that was asked for, in milliseconds: as long as a screen shows a picture. */
const FOLLOW_MS = 1000 / 60;

/** Tokens of a pass at most whose attention weights are kept. */
const WATCHED_TOKENS = 16;

/** Options of {@linkcode SimdSession}. */
export interface SimdSessionOptions {
  kv: KvType;
  activations: ActivationType;
  /** What the heap leaves for KV, in bytes. */
  kvRoomBytes: number;
}

/** Our engine with a model in it: weights packed, KV in blocks, everything in one WASM memory. */
export class SimdSession implements ModelSession {
  readonly detail: string;
  readonly rowsPerPass = Infinity;
  readonly kv: PartedKv;
  readonly kvRoomBytes: number;
  readonly #kernels: Kernels;
  readonly #pool: ThreadPool;
  readonly #config: ModelConfig;
  readonly #engine: WasmEngine;
  /** Sequence of each cache. */
  readonly #sequences = new Map<number, number>();
  /** u32 `[PASS_TOKENS, 4]`: the rows that `forward` runs. */
  readonly #rows: number;
  /** u32 `[PASS_TOKENS]`: their tokens, one row after the other. */
  readonly #ids: number;
  /** A KV block on its way in or out: a full heap has no room for it when KV has to go. */
  readonly #block: number;

  /**
   * Reads and packs all weights.
   * @param pool closed with the session
   * @throws {ModelFileError} when a scale does not fit f16
   * @throws {OutOfMemoryError} when the weights do not fit the heap
   */
  constructor(
    kernels: Kernels,
    pool: ThreadPool,
    config: ModelConfig,
    weights: DecoderWeights,
    { kv, activations, kvRoomBytes }: SimdSessionOptions,
    onProgress: LoadProgress,
  ) {
    this.detail = `KV in blocks of ${BLOCK_TOKENS} tokens, ${kv}`;
    this.kvRoomBytes = kvRoomBytes;
    this.#kernels = kernels;
    this.#pool = pool;
    this.#config = config;
    this.#engine = new kernels.exports.Engine(
      config.numHiddenLayers,
      config.hiddenSize,
      config.intermediateSize,
      config.numAttentionHeads,
      config.numKeyValueHeads,
      config.headDim,
      weights.rotaryDim,
      config.vocabSize,
      weights.epsilon,
      weights.window ?? 0,
      KV_TYPES[kv],
      activations === "f32",
    );
    const unit = this.#engine.block_bytes();
    this.kv = {
      unit,
      byteLength: (tokens) => Math.ceil(tokens / BLOCK_TOKENS) * unit,
      read: (...wanted) => this.#read(...wanted),
      write: (...given) => this.#write(...given),
    };
    this.#rows = allocate(kernels, 4 * ROW_NUMBERS * PASS_TOKENS);
    this.#ids = allocate(kernels, 4 * PASS_TOKENS);
    this.#block = allocate(kernels, unit);
    loadWeights(kernels, this.#engine, weights, (done) => onProgress("packing weights", done));
  }

  get heapBytes(): number {
    return this.#kernels.memory.buffer.byteLength;
  }

  async run(rows: readonly SessionRow[]): Promise<RowResult[]> {
    const startedAt = performance.now();
    const results = this.#run(rows);
    const [row] = rows;
    if (row?.follow && rows.length === 1) results[0]!.followed = this.#follow(row, results[0]!.top!.at(-1)!, startedAt);
    return results;
  }

  /**
   * Takes the steps that are sure to be asked for after a row. To tell of each would cost a fifth of a millisecond, and
   * what the HTTP thread does with it a core that helps here.
   */
  #follow(row: SessionRow, top: TopLogits, startedAt: number): Followed[] {
    const { steps, stopIds } = row.follow!;
    const followed: Followed[] = [];
    let start = row.start + row.tokenIds.length;
    for (let [before, now] = [startedAt, performance.now()]; followed.length < steps; start++) {
      const [id] = top.ids;
      if (stopIds.includes(id!) || 2 * now - before > startedAt + FOLLOW_MS) break;
      try {
        const step: SessionRow = { ...row, start, tokenIds: [id!], logits: "last", hiddenStates: false, inspect: [] };
        top = this.#run([step])[0]!.top![0]!;
      } catch (error) {
        // Nobody's KV goes for a step that nobody asked for yet.
        if (error instanceof OutOfMemoryError) break;
        throw error;
      }
      followed.push({ id: id!, top });
      [before, now] = [now, performance.now()];
    }
    return followed;
  }

  #run(rows: readonly SessionRow[]): RowResult[] {
    const sequences = rows.map(({ cacheId }) => this.#sequence(cacheId));
    const results = rows.map((row) => this.#emptyResult(row));
    const watched = [...new Set(rows.flatMap(({ inspect }) => inspect))];
    for (const layer of watched) this.#engine.watch(layer);
    try {
      // Attention weights take a square of the tokens: few at a time.
      for (const parts of cutPasses(rows, watched.length > 0 ? WATCHED_TOKENS : PASS_TOKENS)) {
        this.#pass(rows, parts, sequences, results);
        if (watched.length > 0) copyWatched(this.#watchedPass(watched), rows, parts, results);
      }
    } catch (error) {
      // After a trap nothing can be asked of the engine any more.
      if (!(error instanceof WebAssembly.RuntimeError)) {
        this.#engine.unwatch();
        this.#settle(rows, sequences, false);
      }
      throw error;
    }
    if (watched.length > 0) this.#engine.unwatch();
    this.#settle(rows, sequences, true);
    return results;
  }

  #watchedPass(layers: readonly number[]): WatchedPass {
    const floats = (pointer: number, count: number) => this.#floats(pointer, count);
    return { engine: this.#engine, config: this.#config, layers, floats };
  }

  /** Forgets rows that have no cache; after a failure the others keep their earlier tokens. */
  #settle(rows: readonly SessionRow[], sequences: readonly number[], done: boolean): void {
    rows.forEach(({ cacheId, start }, i) => {
      if (cacheId === undefined) this.#engine.sequence_free(sequences[i]!);
      else if (!done) this.#engine.sequence_truncate(sequences[i]!, start);
    });
  }

  #sequence(cacheId: number | undefined): number {
    const known = cacheId === undefined ? undefined : this.#sequences.get(cacheId);
    const sequence = known ?? this.#engine.sequence_new();
    if (cacheId !== undefined) this.#sequences.set(cacheId, sequence);
    return sequence;
  }

  #emptyResult({ tokenIds: { length }, start, logits, hiddenStates, top, inspect }: SessionRow): RowResult {
    const { vocabSize, headDim, numAttentionHeads, numKeyValueHeads } = this.#config;
    const positions = top === undefined ? { none: 0, last: 1, all: length }[logits] : 0;
    const floats = (heads: number, width: number) => new Float32Array(length * heads * width);
    return {
      logits: new Float32Array(positions * vocabSize),
      ...(top !== undefined && { top: [] }),
      ...(inspect.length > 0 && {
        layers: inspect.map((layer) => ({
          layer,
          queries: floats(numAttentionHeads, headDim),
          keys: floats(numKeyValueHeads, headDim),
          values: floats(numKeyValueHeads, headDim),
          weights: floats(numAttentionHeads, start + length),
        })),
      }),
      ...(hiddenStates && { hiddenStates: new Float32Array(length * this.#config.hiddenSize) }),
    };
  }

  /** Runs one pass and copies what it gave into the results of its rows. */
  #pass(
    rows: readonly SessionRow[],
    parts: readonly RowPart[],
    sequences: readonly number[],
    results: readonly RowResult[],
  ): void {
    const numbers = parts.flatMap(({ row, from, count, logits }) => [
      sequences[row]!,
      rows[row]!.start + from,
      count,
      LOGITS[logits],
    ]);
    const ids = parts.flatMap(({ row, from, count }) => rows[row]!.tokenIds.slice(from, from + count));
    this.#numbers(this.#rows, numbers.length).set(numbers);
    this.#numbers(this.#ids, ids.length).set(ids);
    if (!this.#engine.forward(this.#rows, parts.length, this.#ids)) {
      const tokens = parts.map(({ row, from, count }) => rows[row]!.start + from + count).join(" + ");
      throw this.#full(`run a pass over ${tokens} tokens`);
    }
    const { vocabSize, hiddenSize } = this.#config;
    let position = 0;
    let [logitsAt, statesAt] = [this.#engine.logits() >>> 0, this.#engine.states() >>> 0];
    for (const { row, from, count, logits: wanted } of parts) {
      const { logits, top, hiddenStates } = results[row]!;
      const positions = { none: 0, last: 1, all: count }[wanted];
      if (top) {
        for (let i = 0; i < positions; i++) top.push(this.#rank(position + i, rows[row]!.top!));
      } else {
        logits.set(this.#floats(logitsAt, positions * vocabSize), wanted === "all" ? from * vocabSize : 0);
      }
      position += positions;
      hiddenStates?.set(this.#floats(statesAt, count * hiddenSize), from * hiddenSize);
      logitsAt += 4 * positions * vocabSize;
      statesAt += 4 * count * hiddenSize;
    }
  }

  #rank(position: number, k: number): TopLogits {
    const logSumExp = this.#engine.rank(position, k);
    const count = Math.min(k, this.#config.vocabSize);
    return {
      ids: new Int32Array(this.#numbers(this.#engine.ranked_ids() >>> 0, count)),
      logits: new Float32Array(this.#floats(this.#engine.ranked_logits() >>> 0, count)),
      logSumExp,
    };
  }

  freeCache(cacheId: number): void {
    const sequence = this.#sequences.get(cacheId);
    if (sequence !== undefined) this.#engine.sequence_free(sequence);
    this.#sequences.delete(cacheId);
  }

  forkCache(cacheId: number, toId: number, length: number): void {
    const sequence = this.#engine.sequence_fork(this.#sequences.get(cacheId)!, length);
    if (sequence === undefined) throw this.#full(`fork ${length} tokens`);
    this.#sequences.set(toId, sequence);
  }

  #read(cacheId: number, length: number, at: number, part: Uint8Array): void {
    const sequence = this.#sequences.get(cacheId)!;
    this.#engine.sequence_truncate(sequence, length);
    this.#eachBlock(at, part, (block, i) => {
      this.#engine.copy_block_out(sequence, i, this.#block);
      block.set(this.#bytes(this.#block, block.length));
    });
  }

  #write(cacheId: number, length: number, at: number, part: Uint8Array): void {
    const sequence = at === 0 ? this.#fill(cacheId, length) : this.#sequences.get(cacheId)!;
    this.#eachBlock(at, part, (block, i) => {
      this.#bytes(this.#block, block.length).set(block);
      this.#engine.copy_block_in(sequence, i, this.#block);
    });
  }

  /** A sequence of so many tokens, whose KV is yet to come. */
  #fill(cacheId: number, length: number): number {
    const sequence = this.#engine.sequence_new();
    if (!this.#engine.sequence_fill(sequence, length)) {
      this.#engine.sequence_free(sequence);
      throw this.#full(`import KV of ${length} tokens`);
    }
    this.#sequences.set(cacheId, sequence);
    return sequence;
  }

  /** Visits a part of exported bytes block by block. */
  #eachBlock(at: number, part: Uint8Array, visit: (block: Uint8Array, index: number) => void): void {
    const { unit } = this.kv;
    for (let i = 0; i * unit < part.length; i++) visit(part.subarray(i * unit, (i + 1) * unit), at / unit + i);
  }

  #full(action: string): OutOfMemoryError {
    const { kvBlocks, kvBytes } = this.stats();
    return new OutOfMemoryError(
      `Cannot ${action}: the WASM heap is full at ${mib(this.heapBytes)}, ${
        mib(kvBytes)
      } of them KV in ${kvBlocks} blocks`,
    );
  }

  stats(): BackendStats {
    const kvBlocks = this.#engine.used_blocks();
    return { kvBlocks, kvBytes: kvBlocks * this.#engine.block_bytes() };
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  #bytes(pointer: number, count: number): Uint8Array {
    return new Uint8Array(this.#kernels.memory.buffer, pointer, count);
  }

  #numbers(pointer: number, count: number): Uint32Array {
    return new Uint32Array(this.#kernels.memory.buffer, pointer, count);
  }

  /** The heap's own, which the next pass overwrites. */
  #floats(pointer: number, count: number): Float32Array {
    return new Float32Array(this.#kernels.memory.buffer, pointer, count);
  }
}

const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
