import { OutOfMemoryError } from "../../errors.ts";
import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import { DataType } from "../../model/onnx_proto.ts";
import type { BackendStats, RowResult } from "../backend.ts";
import { LOGITS_POSITIONS } from "../ort/pick_positions.ts";
import type { RewrittenModel } from "./graph_rewrite.ts";
import { createTensor, heapBytes, HeapKv } from "./heap_kv.ts";
import { lastError, loadOrtModule, LOG_ERRORS, type OrtModule } from "./ort_module.ts";
import { checkKvBytes, logitsPositions, type ModelSession, type SessionRow, type WholeKv } from "../model_session.ts";

/** `getGraphOptimzationLevel("all")` in onnxruntime-web 1.30.0, `lib/wasm/session-options.ts`. */
const ALL_OPTIMIZATIONS = 99;
const SEQUENTIAL = 0;

/**
 * onnxruntime-web with the KV cache left in its heap: a step hands over pointers and copies only the ids in and the
 * logits out. Everything it relies on beyond the public API is in `ort_module.ts`.
 */
export class HeapSession implements ModelSession {
  readonly detail = "KV stays in the WASM heap";
  /** The graph has one attention mask for the whole batch, so rows of unlike lengths cannot share a pass. */
  readonly rowsPerPass = 1;
  readonly kv: WholeKv = {
    export: (cacheId, length) => this.#export(cacheId, length),
    import: (cacheId, length, bytes) => this.#import(cacheId, length, bytes),
  };
  readonly #module: OrtModule;
  readonly #config: ModelConfig;
  readonly #session: number;
  readonly #caches = new Map<number, HeapKv>();
  /** Heap memory that lives as long as the session: pointers to C strings and the arrays `_OrtRun` reads. */
  readonly #inputNames: number;
  readonly #inputs: number;
  readonly #outputNames: number;
  readonly #outputs: number;
  /** int64 `[context_length]` each. */
  readonly #ids: number;
  readonly #ones: number;
  readonly #positions: number;

  /**
   * @throws {BackendUnavailableError} when onnxruntime-web does not export what is needed
   * @throws {OutOfMemoryError} when the weights do not fit the heap
   */
  static async create(model: RewrittenModel, config: ModelConfig, threads: number): Promise<HeapSession> {
    const module = await loadOrtModule(threads);
    return new HeapSession(module, config, await createSession(module, model), model.hiddenStates);
  }

  private constructor(module: OrtModule, config: ModelConfig, session: number, hiddenStates: string) {
    this.#module = module;
    this.#config = config;
    this.#session = session;
    const kv = (kind: string) =>
      Array.from({ length: config.numHiddenLayers }, (_, i) => [`${kind}.${i}.key`, `${kind}.${i}.value`]).flat();
    const inputNames = ["input_ids", "attention_mask", LOGITS_POSITIONS, ...kv("past_key_values")];
    const outputNames = [...kv("present"), "logits", hiddenStates];
    this.#inputNames = this.#pointers(inputNames.map((name) => newCString(module, name)));
    this.#outputNames = this.#pointers(outputNames.map((name) => newCString(module, name)));
    this.#inputs = this.#pointers(inputNames.map(() => 0));
    this.#outputs = this.#pointers(outputNames.map(() => 0));
    const bytes = 8 * config.contextLength;
    this.#ids = module._malloc(bytes);
    this.#positions = module._malloc(bytes);
    this.#ones = module._malloc(bytes);
    new BigInt64Array(heapBytes(module).buffer, this.#ones, config.contextLength).fill(1n);
  }

  get heapBytes(): number {
    return heapBytes(this.#module).length;
  }

  async run([row]: readonly SessionRow[]): Promise<RowResult[]> {
    const { cacheId, start, tokenIds, logits, hiddenStates } = row!;
    const total = start + tokenIds.length;
    const cache = this.#cache(cacheId);
    try {
      cache.reserve(total, start);
      return [await this.#run(cache, tokenIds, total, logitsPositions(logits, tokenIds.length), hiddenStates)];
    } finally {
      if (cacheId === undefined) cache.free();
    }
  }

  freeCache(cacheId: number): void {
    this.#caches.get(cacheId)?.free();
    this.#caches.delete(cacheId);
  }

  forkCache(cacheId: number, toId: number, length: number): void {
    this.#import(toId, length, this.#export(cacheId, length));
  }

  #export(cacheId: number, length: number): Uint8Array<ArrayBuffer> {
    return this.#cache(cacheId).export(length);
  }

  #import(cacheId: number, length: number, bytes: Uint8Array): void {
    checkKvBytes(bytes.length, length, length * kvBytesPerToken(this.#config));
    this.#cache(cacheId).import(length, bytes);
  }

  stats(): BackendStats {
    const caches = [...this.#caches.values()];
    return { kvBlocks: caches.length, kvBytes: caches.reduce((sum, { bytes }) => sum + bytes, 0) };
  }

  #cache(cacheId: number | undefined): HeapKv {
    const known = cacheId === undefined ? undefined : this.#caches.get(cacheId);
    if (known) return known;
    const cache = new HeapKv(this.#module, this.#config);
    if (cacheId !== undefined) this.#caches.set(cacheId, cache);
    return cache;
  }

  async #run(
    cache: HeapKv,
    tokenIds: readonly number[],
    total: number,
    positions: readonly number[],
    hiddenStates: boolean,
  ): Promise<RowResult> {
    const module = this.#module;
    const kvCount = cache.buffers.length;
    const inputs = [
      this.#int64Tensor(this.#ids, tokenIds, [1, tokenIds.length]),
      createTensor(module, DataType.INT64, this.#ones, 8 * total, [1, total]),
      this.#int64Tensor(this.#positions, positions, [positions.length]),
    ];
    const outputCount = kvCount + 1 + (hiddenStates ? 1 : 0);
    const heap = new Uint32Array(heapBytes(module).buffer);
    heap.set([...inputs, ...cache.buffers.map(({ past }) => past)], this.#inputs / 4);
    // 0 asks onnxruntime to allocate that output.
    heap.set([...cache.buffers.map(({ present }) => present), 0, 0], this.#outputs / 4);
    let status: number;
    try {
      status = await module._OrtRun(
        this.#session,
        this.#inputNames,
        this.#inputs,
        inputs.length + kvCount,
        this.#outputNames,
        outputCount,
        this.#outputs,
        0,
      );
    } finally {
      for (const tensor of inputs) module._OrtReleaseTensor(tensor);
    }
    if (status !== 0) throw runError(lastError(module, "run the model"));
    const outputs = new Uint32Array(heapBytes(module).buffer, this.#outputs + 4 * kvCount, 2);
    const [logits, states] = [outputs[0]!, outputs[1]!];
    const result: RowResult = { logits: this.#takeFloats(logits) };
    if (hiddenStates) result.hiddenStates = this.#takeFloats(states);
    return result;
  }

  #int64Tensor(pointer: number, values: readonly number[], dims: number[]): number {
    const view = new BigInt64Array(heapBytes(this.#module).buffer, pointer, values.length);
    values.forEach((value, i) => view[i] = BigInt(value));
    return createTensor(this.#module, DataType.INT64, pointer, 8 * values.length, dims);
  }

  /** Copies an f32 output out of the heap and releases it. */
  #takeFloats(tensor: number): Float32Array<ArrayBuffer> {
    const module = this.#module;
    const pointers = module._malloc(16);
    try {
      if (module._OrtGetTensorData(tensor, pointers, pointers + 4, pointers + 8, pointers + 12) !== 0) {
        throw lastError(module, "read an output");
      }
      const heap = heapBytes(module).buffer;
      const [, data, dims, rank] = new Uint32Array(heap, pointers, 4);
      const length = new Int32Array(heap, dims!, rank!).reduce((product, dim) => product * dim, 1);
      module._OrtFree(dims!);
      return new Float32Array(new Float32Array(heap, data!, length));
    } finally {
      module._free(pointers);
      module._OrtReleaseTensor(tensor);
    }
  }

  #pointers(values: number[]): number {
    const pointer = this.#module._malloc(4 * values.length);
    new Uint32Array(heapBytes(this.#module).buffer, pointer, values.length).set(values);
    return pointer;
  }
}

async function createSession(module: OrtModule, { graph, weights }: RewrittenModel): Promise<number> {
  const options = module._OrtCreateSessionOptions(
    ALL_OPTIMIZATIONS,
    false,
    false,
    SEQUENTIAL,
    false,
    0,
    0,
    LOG_ERRORS,
    0,
    0,
  );
  if (options === 0) throw lastError(module, "set session options");
  const model = module._malloc(graph.length);
  try {
    if (model === 0) {
      throw new OutOfMemoryError(`Cannot load the graph: ${graph.length} bytes do not fit the WASM heap`);
    }
    heapBytes(module).set(graph, model);
    for (const [name, bytes] of weights) module.mountExternalData(name, bytes);
    const session = await module._OrtCreateSession(model, graph.length, options);
    if (session === 0) throw runError(lastError(module, "load the model"));
    return session;
  } finally {
    module.unmountExternalData();
    module._free(model);
    module._OrtReleaseSessionOptions(options);
  }
}

/** onnxruntime reports a full heap as a C++ exception like any other. */
function runError(error: Error): Error {
  return /bad_alloc|failed to allocate|out of memory/i.test(error.message)
    ? new OutOfMemoryError(`${error.message}: the 4 GiB WASM heap is full`, { cause: error })
    : error;
}

function newCString(module: OrtModule, text: string): number {
  const bytes = module.lengthBytesUTF8(text) + 1;
  const pointer = module._malloc(bytes);
  module.stringToUTF8(text, pointer, bytes);
  return pointer;
}
