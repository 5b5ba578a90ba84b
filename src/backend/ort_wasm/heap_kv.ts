import { OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { DataType } from "../../model/onnx_proto.ts";
import { kvCapacity } from "../../kv/kv_capacity.ts";
import { lastError, type OrtModule } from "./ort_module.ts";

/** `dataLocationStringToEnum("cpu")` in onnxruntime-web 1.30.0, `lib/wasm/wasm-common.ts`. */
const CPU = 1;

/** Keys or values of one layer: f32 `[1, num_key_value_heads, capacity, head_dim]` in the WASM heap. */
interface Buffer {
  data: number;
  /** Two tensors over the same memory: onnxruntime reads what was there and writes what is new, and copies nothing. */
  past: number;
  present: number;
}

/**
 * One sequence's KV cache in the WASM heap. Buffers are layer 0's keys, its values, layer 1's keys, and so on.
 * CPU GroupQueryAttention works in place when past and present have one address,
 * https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/contrib_ops/cpu/bert/gqa_attention_base.h.
 */
export class HeapKv {
  #capacity = 0;
  #buffers: Buffer[] = [];
  readonly #module: OrtModule;
  readonly #config: ModelConfig;

  constructor(module: OrtModule, config: ModelConfig) {
    this.#module = module;
    this.#config = config;
  }

  get buffers(): readonly Readonly<Buffer>[] {
    return this.#buffers;
  }

  /**
   * Makes room for `tokens` tokens, keeping the first `held`.
   * @throws {OutOfMemoryError} when the heap is full; what was held is still there
   */
  reserve(tokens: number, held: number): void {
    if (tokens <= this.#capacity) return;
    const { numHiddenLayers, contextLength } = this.#config;
    const capacity = kvCapacity(tokens, contextLength);
    const count = 2 * numHiddenLayers;
    const bytes = this.#bufferBytes(capacity);
    const grown: Buffer[] = [];
    try {
      for (let i = 0; i < count; i++) grown.push(this.#allocate(bytes, capacity));
    } catch (error) {
      for (const buffer of grown) this.#release(buffer);
      throw error;
    }
    this.#buffers.forEach((old, i) => this.#copy(old.data, this.#capacity, grown[i]!.data, capacity, held));
    for (const old of this.#buffers) this.#release(old);
    this.#buffers = grown;
    this.#capacity = capacity;
  }

  /** Bytes that it holds. */
  get bytes(): number {
    return this.#buffers.length * this.#bufferBytes(this.#capacity);
  }

  /** Copies the first `tokens` tokens out: f32 `[2 * layers, num_key_value_heads, tokens, head_dim]`. */
  export(tokens: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.#buffers.length * this.#bufferBytes(tokens));
    this.#eachHead(tokens, (heap, packed) => bytes.set(heap, packed));
    return bytes;
  }

  /**
   * Copies in what `export` gave.
   * @throws {OutOfMemoryError} when the heap is full
   */
  import(tokens: number, bytes: Uint8Array): void {
    this.reserve(tokens, 0);
    this.#eachHead(tokens, (heap, packed, size) => heap.set(bytes.subarray(packed, packed + size)));
  }

  /** Gives the memory back. Idempotent. */
  free(): void {
    for (const buffer of this.#buffers) this.#release(buffer);
    this.#buffers = [];
    this.#capacity = 0;
  }

  #bufferBytes(tokens: number): number {
    return 4 * this.#config.numKeyValueHeads * tokens * this.#config.headDim;
  }

  /** Hands over each head's first tokens in the heap, where they are in the exported bytes, and how many bytes. */
  #eachHead(tokens: number, visit: (heap: Uint8Array, packed: number, size: number) => void): void {
    const { numKeyValueHeads, headDim } = this.#config;
    const heap = heapBytes(this.#module);
    const size = 4 * tokens * headDim;
    this.#buffers.forEach(({ data }, i) => {
      for (let head = 0; head < numKeyValueHeads; head++) {
        const from = data + 4 * head * this.#capacity * headDim;
        visit(heap.subarray(from, from + size), (i * numKeyValueHeads + head) * size, size);
      }
    });
  }

  #allocate(bytes: number, capacity: number): Buffer {
    const data = this.#module._malloc(bytes);
    if (data === 0) {
      const total = 2 * this.#config.numHiddenLayers * bytes;
      throw new OutOfMemoryError(
        `Cannot hold KV for ${capacity} tokens: ${Math.round(total / 2 ** 20)} MiB do not fit the 4 GiB WASM heap`,
      );
    }
    const { numKeyValueHeads, headDim } = this.#config;
    const dims = [1, numKeyValueHeads, capacity, headDim];
    const [past, present] = [0, 1].map(() => createTensor(this.#module, DataType.FLOAT, data, bytes, dims));
    return { data, past: past!, present: present! };
  }

  #release({ data, past, present }: Buffer): void {
    this.#module._OrtReleaseTensor(past);
    this.#module._OrtReleaseTensor(present);
    this.#module._free(data);
  }

  /** Heads lie `capacity` tokens apart, so each moves on its own. */
  #copy(from: number, fromCapacity: number, to: number, toCapacity: number, tokens: number): void {
    const { numKeyValueHeads, headDim } = this.#config;
    const bytes = heapBytes(this.#module);
    for (let head = 0; head < numKeyValueHeads; head++) {
      const source = from + 4 * head * fromCapacity * headDim;
      bytes.copyWithin(to + 4 * head * toCapacity * headDim, source, source + 4 * tokens * headDim);
    }
  }
}

/** A tensor over heap memory, which stays the caller's. @returns its handle, to be released by the caller */
export function createTensor(module: OrtModule, type: number, data: number, bytes: number, dims: number[]): number {
  const shape = module._malloc(4 * dims.length);
  new Int32Array(heapBytes(module).buffer, shape, dims.length).set(dims);
  const tensor = module._OrtCreateTensor(type, data, bytes, shape, dims.length, CPU);
  module._free(shape);
  if (tensor === 0) throw lastError(module, `create a tensor [${dims.join(", ")}]`);
  return tensor;
}

/** The heap as it is now: a view taken earlier may lack what another thread has added since. */
export function heapBytes(module: OrtModule): Uint8Array {
  module.getValue(0, "i32");
  return module.HEAPU8;
}
