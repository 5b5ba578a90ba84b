import { ModelFileError, OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import type { RowResult } from "../backend.ts";
import type { LoadProgress } from "../inference_thread.ts";
import type { ModelSession, SessionRow } from "../model_session.ts";
import type { DecoderWeights, QuantizedMatrix } from "./decoder_weights.ts";
import type { Kernels } from "./kernels.ts";
import type { ThreadPool } from "./thread_pool.ts";
import type { WasmEngine } from "./wasm_engine.ts";

/** `set_matrix`'s and `set_vector`'s slots. */
const MATRIX = { qkv: 0, output: 1, gateUp: 2, down: 3, embedding: 4, head: 5 } as const;
const VECTOR = { inputNorm: 0, postAttentionNorm: 1, finalNorm: 2, cos: 3, sin: 4 } as const;
const LOGITS = { none: 0, last: 1, all: 2 } as const;
const ZERO_KIND = { absent: 0, f32: 1, packed: 2 } as const;

/** Our engine with a model in it: weights packed, KV in blocks, everything in one WASM memory. */
export class SimdSession implements ModelSession {
  readonly detail = "KV in blocks of 16 tokens, f32";
  readonly #kernels: Kernels;
  readonly #pool: ThreadPool;
  readonly #config: ModelConfig;
  readonly #engine: WasmEngine;
  /** Sequence of each cache. */
  readonly #sequences = new Map<number, number>();
  /** u32 `[4]`: the row that `forward` runs. */
  readonly #row: number;
  /** u32 `[context_length]` */
  readonly #ids: number;

  /**
   * Reads, packs and copies all weights.
   * @param pool closed with the session
   * @throws {ModelFileError} when a scale does not fit f16
   * @throws {OutOfMemoryError} when the weights do not fit the heap
   */
  constructor(
    kernels: Kernels,
    pool: ThreadPool,
    config: ModelConfig,
    weights: DecoderWeights,
    onProgress: LoadProgress,
  ) {
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
      config.vocabSize,
      config.contextLength,
      config.rmsNormEps,
      config.slidingWindow ?? 0,
    );
    this.#row = this.#allocate(16);
    this.#ids = this.#allocate(4 * config.contextLength);
    weights.layers.forEach((layer, i) => {
      for (const name of ["qkv", "output", "gateUp", "down"] as const) this.#setMatrix(MATRIX[name], i, layer[name]);
      this.#setVector(VECTOR.inputNorm, i, layer.inputNorm());
      this.#setVector(VECTOR.postAttentionNorm, i, layer.postAttentionNorm());
      onProgress("packing weights", (i + 1) / weights.layers.length);
    });
    this.#setMatrix(MATRIX.embedding, 0, weights.embedding);
    if (weights.head) this.#setMatrix(MATRIX.head, 0, weights.head);
    for (const name of ["finalNorm", "cos", "sin"] as const) this.#setVector(VECTOR[name], 0, weights[name]());
  }

  get heapBytes(): number {
    return this.#kernels.memory.buffer.byteLength;
  }

  async run({ cacheId, start, tokenIds, logits, hiddenStates }: SessionRow): Promise<RowResult> {
    const sequence = (cacheId === undefined ? undefined : this.#sequences.get(cacheId)) ?? this.#engine.sequence_new();
    if (cacheId !== undefined) this.#sequences.set(cacheId, sequence);
    try {
      this.#numbers(this.#row, 4).set([sequence, start, tokenIds.length, LOGITS[logits]]);
      this.#numbers(this.#ids, tokenIds.length).set(tokenIds);
      if (!this.#engine.forward(this.#row, 1, this.#ids)) {
        throw new OutOfMemoryError(`Cannot hold KV for ${start + tokenIds.length} tokens: the WASM heap is full`);
      }
      const positions = { none: 0, last: 1, all: tokenIds.length }[logits];
      const result: RowResult = { logits: this.#floats(this.#engine.logits(), positions * this.#config.vocabSize) };
      if (hiddenStates) {
        result.hiddenStates = this.#floats(this.#engine.states(), tokenIds.length * this.#config.hiddenSize);
      }
      return result;
    } finally {
      if (cacheId === undefined) this.#engine.sequence_free(sequence);
    }
  }

  freeCache(cacheId: number): void {
    const sequence = this.#sequences.get(cacheId);
    if (sequence !== undefined) this.#engine.sequence_free(sequence);
    this.#sequences.delete(cacheId);
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }

  #setMatrix(slot: number, layer: number, { n, k, bits, ...parts }: QuantizedMatrix): void {
    const [qweight, scales, zeros] = [parts.qweight(), parts.scales(), parts.zeroPoints()];
    const copies = [qweight, scales, zeros ?? new Uint8Array(0)].map((bytes) => this.#copy(bytes));
    const zeroKind = !zeros ? "absent" : zeros.length === scales.length ? "f32" : "packed";
    const [q, s, z] = copies.map(({ pointer }) => pointer);
    const status = this.#engine.set_matrix(slot, layer, bits, n, k, q!, s!, ZERO_KIND[zeroKind], z!);
    for (const { pointer, bytes } of copies) this.#kernels.exports.release(pointer, bytes);
    if (status === -1) throw new ModelFileError(`Cannot pack a matrix [${n}, ${k}]: a scale does not fit f16`);
    if (status === -2) throw new OutOfMemoryError(`Cannot load a matrix [${n}, ${k}]: the WASM heap is full`);
  }

  #setVector(slot: number, layer: number, values: Uint8Array): void {
    const { pointer, bytes } = this.#copy(values);
    this.#engine.set_vector(slot, layer, pointer, values.length / 4);
    this.#kernels.exports.release(pointer, bytes);
  }

  #copy(values: Uint8Array): { pointer: number; bytes: number } {
    const bytes = values.length;
    const pointer = this.#allocate(bytes);
    new Uint8Array(this.#kernels.memory.buffer, pointer, bytes).set(values);
    return { pointer, bytes };
  }

  #allocate(bytes: number): number {
    const pointer = this.#kernels.exports.allocate(bytes) >>> 0;
    if (pointer === 0) throw new OutOfMemoryError(`Cannot allocate ${bytes} bytes: the WASM heap is full`);
    return pointer;
  }

  #numbers(pointer: number, count: number): Uint32Array {
    return new Uint32Array(this.#kernels.memory.buffer, pointer, count);
  }

  /** Copied out: the heap's own are overwritten by the next pass. */
  #floats(pointer: number, count: number): Float32Array<ArrayBuffer> {
    return new Float32Array(new Float32Array(this.#kernels.memory.buffer, pointer >>> 0, count));
  }
}
