import * as ort from "onnxruntime-web";
import type { ModelConfig } from "../../model/model_config.ts";
import type { RowResult } from "../backend.ts";
import { LOGITS_POSITIONS, type RewrittenModel } from "./graph_rewrite.ts";
import { logitsPositions, type ModelSession, type SessionRow } from "../model_session.ts";

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
