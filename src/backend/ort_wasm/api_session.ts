import * as ort from "onnxruntime-web";
import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import type { BackendStats, RowResult } from "../backend.ts";
import { checkKvBytes, logitsPositions, type ModelSession, type SessionRow, type WholeKv } from "../model_session.ts";
import { LOGITS_POSITIONS } from "../ort/pick_positions.ts";
import type { RewrittenModel } from "./graph_rewrite.ts";

/** Keys and values by layer, as the last run gave them. */
interface ApiKv {
  tokens: number;
  /** `present` outputs in the order key 0, value 0, key 1, ...: f32 `[1, num_key_value_heads, tokens, head_dim]`. */
  tensors: ort.Tensor[];
}

/**
 * onnxruntime-web by its public API alone: the KV cache goes out to JavaScript and back in with every step.
 * The fallback for a version whose inner functions changed, and the twin that `HeapSession` is tested against.
 */
export class ApiSession implements ModelSession {
  readonly detail = "KV copied in every step";
  readonly heapBytes = 0;
  /** As in `HeapSession`. */
  readonly rowsPerPass = 1;
  readonly kv: WholeKv = {
    export: (cacheId, length) => this.#export(cacheId, length),
    import: (cacheId, length, bytes) => this.#import(cacheId, length, bytes),
  };
  readonly #caches = new Map<number, ApiKv>();
  readonly #session: ort.InferenceSession;
  readonly #config: ModelConfig;
  readonly #hiddenStates: string;

  static async create(model: RewrittenModel, config: ModelConfig, threads: number): Promise<ApiSession> {
    ort.env.wasm.numThreads = threads;
    ort.env.logLevel = "error";
    const session = await ort.InferenceSession.create(model.graph, {
      executionProviders: ["wasm"],
      logSeverityLevel: 3,
      externalData: [...model.weights].map(([path, data]) => ({ path, data })),
    });
    return new ApiSession(session, config, model.hiddenStates);
  }

  private constructor(session: ort.InferenceSession, config: ModelConfig, hiddenStates: string) {
    this.#session = session;
    this.#config = config;
    this.#hiddenStates = hiddenStates;
  }

  async run([row]: readonly SessionRow[]): Promise<RowResult[]> {
    const { cacheId, start, tokenIds, logits, hiddenStates } = row!;
    const past = this.#past(cacheId === undefined ? undefined : this.#caches.get(cacheId), start);
    const total = start + tokenIds.length;
    const kvNames = this.#kvNames("present");
    const positions = logitsPositions(logits, tokenIds.length);
    const feeds: Record<string, ort.Tensor> = {
      input_ids: int64Tensor(tokenIds, [1, tokenIds.length]),
      attention_mask: int64Tensor(Array.from({ length: total }, () => 1), [1, total]),
      [LOGITS_POSITIONS]: int64Tensor(positions, [positions.length]),
    };
    this.#kvNames("past_key_values").forEach((name, i) => feeds[name] = past[i]!);
    const fetches = [...kvNames, "logits", ...(hiddenStates ? [this.#hiddenStates] : [])];
    const outputs = await this.#session.run(feeds, fetches);
    if (cacheId !== undefined) this.#caches.set(cacheId, { tokens: total, tensors: kvNames.map((n) => outputs[n]!) });
    const floats = (name: string) => outputs[name]!.data as Float32Array;
    return [{ logits: floats("logits"), ...(hiddenStates && { hiddenStates: floats(this.#hiddenStates) }) }];
  }

  freeCache(cacheId: number): void {
    this.#caches.delete(cacheId);
  }

  forkCache(cacheId: number, toId: number, length: number): void {
    this.#caches.set(toId, { tokens: length, tensors: this.#past(this.#caches.get(cacheId), length) });
  }

  #export(cacheId: number, length: number): Uint8Array<ArrayBuffer> {
    const tensors = this.#past(this.#caches.get(cacheId), length);
    const bytes = new Uint8Array(length * kvBytesPerToken(this.#config));
    tensors.forEach(({ data }, i) => {
      const { buffer, byteOffset, byteLength } = data as Float32Array;
      bytes.set(new Uint8Array(buffer, byteOffset, byteLength), i * bytes.length / tensors.length);
    });
    return bytes;
  }

  #import(cacheId: number, length: number, bytes: Uint8Array): void {
    const { numHiddenLayers, numKeyValueHeads, headDim } = this.#config;
    checkKvBytes(bytes.length, length, length * kvBytesPerToken(this.#config));
    const floats = new Float32Array(bytes.slice().buffer);
    const count = floats.length / (2 * numHiddenLayers);
    const tensors = Array.from(
      { length: 2 * numHiddenLayers },
      (_, i) =>
        new ort.Tensor("float32", floats.slice(i * count, (i + 1) * count), [1, numKeyValueHeads, length, headDim]),
    );
    this.#caches.set(cacheId, { tokens: length, tensors });
  }

  stats(): BackendStats {
    const caches = [...this.#caches.values()];
    const perToken = kvBytesPerToken(this.#config);
    return { kvBlocks: caches.length, kvBytes: caches.reduce((sum, { tokens }) => sum + tokens * perToken, 0) };
  }

  #kvNames(kind: string): string[] {
    return Array.from(
      { length: this.#config.numHiddenLayers },
      (_, i) => [`${kind}.${i}.key`, `${kind}.${i}.value`],
    ).flat();
  }

  /** The first `tokens` tokens of a cache. */
  #past(kv: ApiKv | undefined, tokens: number): ort.Tensor[] {
    const { numHiddenLayers, numKeyValueHeads, headDim } = this.#config;
    const dims = [1, numKeyValueHeads, tokens, headDim];
    if (!kv) return Array.from({ length: 2 * numHiddenLayers }, () => new ort.Tensor("float32", [], dims));
    if (kv.tokens === tokens) return kv.tensors;
    return kv.tensors.map((tensor) => {
      const kept = new Float32Array(numKeyValueHeads * tokens * headDim);
      for (let head = 0; head < numKeyValueHeads; head++) {
        const from = head * kv.tokens * headDim;
        kept.set((tensor.data as Float32Array).subarray(from, from + tokens * headDim), head * tokens * headDim);
      }
      return new ort.Tensor("float32", kept, dims);
    });
  }
}

function int64Tensor(values: readonly number[], dims: number[]): ort.Tensor {
  return new ort.Tensor("int64", BigInt64Array.from(values, BigInt), dims);
}
