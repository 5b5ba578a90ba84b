import { ModelFileError, OutOfMemoryError } from "../../errors.ts";
import type { TensorBytes } from "../../model/tensor_bytes.ts";
import type { DecoderWeights } from "./decoder_weights.ts";
import { type Kernels, Weights } from "./kernels.ts";
import type { QuantizedMatrix, Table } from "./quantized_matrix.ts";
import type { WasmEngine } from "./wasm_engine.ts";

/** Slots of `new_matrix` and of `set_vector`. */
const MATRIX = { qkv: 0, output: 1, gateUp: 2, down: 3, embedding: 4, head: 5 } as const;
const VECTOR = { inputNorm: 0, postAttentionNorm: 1, finalNorm: 2, cos: 3, sin: 4 } as const;

/** Bytes of a matrix that are in the heap as the file has them, on their way to their packed place. */
const STAGING_BYTES = 4 * 2 ** 20;
/** Rows of a panel, as in `wasm/src/layout.rs`. */
const PANEL = 16;

/** Bytes that the weights take in the heap. */
export function packedBytes({ exports }: Kernels, weights: DecoderWeights): number {
  const { layers, embedding, head } = weights;
  const matrices = layers.flatMap(({ qkv, output, gateUp, down }) => [qkv, output, gateUp, down]);
  if (!("values" in embedding)) matrices.push(embedding);
  if (head) matrices.push(head);
  const table = "values" in embedding ? 2 * embedding.n * embedding.k : 0;
  return matrices.reduce((sum, matrix) => sum + (exports.matrix_bytes(formOf(matrix), matrix.n, matrix.k) >>> 0), 0) +
    vectorsOf(weights).reduce((sum, { length }) => sum + length, table);
}

/** Bytes of the heap that hold what is being read, at most. */
export function stagingBytes(weights: DecoderWeights): number {
  return Math.max(STAGING_BYTES, ...vectorsOf(weights).map(({ length }) => length));
}

function vectorsOf({ layers, finalNorm, cos, sin }: DecoderWeights): TensorBytes[] {
  return [...layers.flatMap((layer) => [layer.inputNorm, layer.postAttentionNorm]), finalNorm, cos, sin];
}

/** The form that a matrix is packed in. */
function formOf({ bits, zeroPoints }: QuantizedMatrix): Weights {
  return bits === 8 ? Weights.Int8 : zeroPoints ? Weights.Int4Affine : Weights.Int4;
}

/**
 * Reads all weights from their files straight into the heap, a few megabytes at a time, and packs them with all
 * threads: at no time are there two copies of a matrix.
 * @param onProgress called with the share done
 * @throws {ModelFileError} when a file ends early, or a scale does not fit f16
 * @throws {OutOfMemoryError} when the heap is full
 */
export function loadWeights(
  kernels: Kernels,
  engine: WasmEngine,
  weights: DecoderWeights,
  onProgress: (fraction: number) => void,
): void {
  const loader = new Loader(kernels, engine);
  try {
    weights.layers.forEach((layer, i) => {
      for (const name of ["qkv", "output", "gateUp", "down"] as const) loader.matrix(MATRIX[name], i, layer[name]);
      for (const name of ["inputNorm", "postAttentionNorm"] as const) loader.vector(VECTOR[name], i, layer[name]);
      onProgress((i + 1) / (weights.layers.length + 1));
    });
    if ("values" in weights.embedding) loader.table(weights.embedding);
    else loader.matrix(MATRIX.embedding, 0, weights.embedding);
    if (weights.head) loader.matrix(MATRIX.head, 0, weights.head);
    for (const name of ["finalNorm", "cos", "sin"] as const) loader.vector(VECTOR[name], 0, weights[name]);
    onProgress(1);
  } finally {
    loader.dispose();
  }
}

/** @throws {OutOfMemoryError} when the heap is full */
export function allocate({ exports }: Kernels, bytes: number): number {
  const pointer = exports.allocate(bytes) >>> 0;
  if (pointer === 0) throw new OutOfMemoryError(`Cannot allocate ${bytes} bytes: the WASM heap is full`);
  return pointer;
}

/** Bytes in the heap that are filled again and again. */
class Loader {
  readonly #kernels: Kernels;
  readonly #engine: WasmEngine;
  #staging = { pointer: 0, bytes: 0 };

  constructor(kernels: Kernels, engine: WasmEngine) {
    this.#kernels = kernels;
    this.#engine = engine;
  }

  matrix(slot: number, layer: number, matrix: QuantizedMatrix): void {
    const { n, k, qweight, scales, zeroPoints } = matrix;
    const shape = `a matrix [${n}, ${k}]`;
    if (!this.#engine.new_matrix(slot, layer, formOf(matrix), n, k)) {
      throw new OutOfMemoryError(`Cannot load ${shape}: the WASM heap is full`);
    }
    const parts = zeroPoints ? [qweight, scales, zeroPoints] : [qweight, scales];
    const rowBytes = parts.reduce((bytes, { length }) => bytes + length / n, 0);
    const most = Math.max(PANEL, Math.floor(STAGING_BYTES / rowBytes / PANEL) * PANEL);
    for (let first = 0; first < n; first += most) {
      const rows = Math.min(most, n - first);
      const [q, s, z = 0] = this.#read(parts.map((part) => ({ part, at: part.length / n * first, rows, n })));
      const packed = zeroPoints !== undefined && zeroPoints.length !== scales.length;
      const rounded = this.#engine.pack_rows(slot, layer, first, rows, q!, s!, z, packed);
      if (rounded < 0) throw new ModelFileError(`Cannot pack ${shape}: a scale does not fit f16`);
    }
  }

  /** Kept as f16, which f32 embeddings of published models came from or lose nothing to that matters (2^-25). */
  table({ n, k, values, half }: Table): void {
    const most = Math.floor(STAGING_BYTES / (values.length / n));
    for (let first = 0; first < n; first += most) {
      const rows = Math.min(most, n - first);
      const [pointer] = this.#read([{ part: values, at: values.length / n * first, rows, n }]);
      const status = this.#engine.set_table(first, rows, pointer!, half);
      if (status === -1) throw new ModelFileError(`Cannot load an embedding [${n}, ${k}]: a value does not fit f16`);
      if (status === -2) throw new OutOfMemoryError(`Cannot load an embedding [${n}, ${k}]: the WASM heap is full`);
    }
  }

  vector(slot: number, layer: number, values: TensorBytes): void {
    const [pointer] = this.#read([{ part: values, at: 0, rows: 1, n: 1 }]);
    if (this.#engine.set_vector(slot, layer, pointer!, values.length / 4)) return;
    throw new OutOfMemoryError(`Cannot load ${values.length / 4} numbers: the WASM heap is full`);
  }

  /** Reads `rows` of `n` rows of each part, from byte `at` on. @returns where each is, until the next call */
  #read(wishes: readonly { part: TensorBytes; at: number; rows: number; n: number }[]): number[] {
    const sizes = wishes.map(({ part, rows, n }) => part.length / n * rows);
    // Each begins on a border that f32 needs.
    const places = sizes.map((_, i) => sizes.slice(0, i).reduce((at, size) => at + Math.ceil(size / 16) * 16, 0));
    const staging = this.#reserve(places.at(-1)! + sizes.at(-1)!);
    return wishes.map(({ part, at }, i) => {
      const pointer = staging + places[i]!;
      part.read(at, new Uint8Array(this.#kernels.memory.buffer, pointer, sizes[i]!));
      return pointer;
    });
  }

  #reserve(bytes: number): number {
    if (this.#staging.bytes < bytes) {
      this.dispose();
      this.#staging = { pointer: allocate(this.#kernels, bytes), bytes };
    }
    return this.#staging.pointer;
  }

  dispose(): void {
    if (this.#staging.bytes > 0) this.#kernels.exports.release(this.#staging.pointer, this.#staging.bytes);
    this.#staging = { pointer: 0, bytes: 0 };
  }
}
