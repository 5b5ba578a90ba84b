import type { KvCache } from "../kv/kv_cache.ts";
import type { KvParts } from "../kv/kv_parts.ts";

/** Which positions of a row get logits: `"none"` for prefill chunks before the last one. */
export type LogitsWanted = "none" | "last" | "all";

/** One sequence's share of a forward pass. */
export interface ForwardRow {
  /**
   * Holds the tokens before `tokenIds`; the pass appends to it.
   * Without one the row starts at position 0 and leaves nothing behind (generation without a KV cache).
   */
  cache?: KvCache;
  /** Ids to evaluate, at least one: a prefill chunk, or a single id in decode. */
  tokenIds: ArrayLike<number>;
  /** @default "last" */
  logits?: LogitsWanted;
  /** Also return the last hidden states (after the final norm, before lm_head). @default false */
  hiddenStates?: boolean;
  /**
   * Wants the `top` largest logits of each position in place of all of them: enough to choose a token by, and little to
   * copy. A backend that cannot rank them gives all.
   */
  top?: number;
  /**
   * Tokens that are sure to be asked for next if each is the best after the one before, or what `draw` draws: a backend
   * that knows it first may begin with them. Nothing else changes.
   * @default 0
   */
  ahead?: number;
  /** How the caller will draw the tokens that come next. @default each is the best */
  draw?: Draw;
  /** Where this is the only row, one of a cache that wants its best logit: steps to take beyond it. @default none */
  follow?: Follow;
  /**
   * Layers whose queries, keys, values and attention weights are wanted, where `info.inspects`.
   * @default none
   */
  inspect?: readonly number[];
}

/**
 * Steps of decode to take in the same pass, each with the best token after the one before: what a backend is told and
 * tells once for several tokens costs it less. It takes as many as do not keep the row waiting, perhaps none.
 */
export interface Follow {
  /** At most. */
  steps: number;
  /** Nothing follows one of these. */
  stopIds: readonly number[];
}

/** Of more candidates than so many a token is chosen from all logits. */
export const MOST_RANKED = 256;

/** A draw of tokens, as `SamplingParams` describes it, with nothing that depends on earlier ones. */
export interface Draw {
  temperature: number;
  /** `MOST_RANKED` at most. */
  topK: number;
  topP: number;
  minP: number;
  /** From 0 up to 1: what the token after this row is drawn by, the token after that one, ... */
  randoms: readonly number[];
}

/** The best of one position's logits. */
export interface TopLogits {
  /** Best first; of equal logits the lower id first. */
  ids: Int32Array;
  logits: Float32Array;
  /** Natural logarithm of the sum of `exp` of all logits of the position. */
  logSumExp: number;
}

/** A step that followed a row. */
export interface Followed {
  /** Its token: the best after the one before. */
  id: number;
  /** The best after it. */
  top: TopLogits;
}

/** The inside of one layer's attention. `length` is that of the whole sequence, cached tokens included. */
export interface LayerInside {
  layer: number;
  /** f32 `[tokens, num_attention_heads, head_dim]`, turned to their positions. */
  queries: Float32Array;
  /** f32 `[tokens, num_key_value_heads, head_dim]`, keys turned to their positions. */
  keys: Float32Array;
  values: Float32Array;
  /** f32 `[num_attention_heads, tokens, length]`: how much each token takes of those up to itself; sums to 1. */
  weights: Float32Array;
}

/** What one row of a forward pass gives back. The arrays belong to the caller. */
export interface RowResult {
  /** f32 `[positions, vocab_size]`: 0, 1 or `tokenIds.length` positions, as asked; none where `top` is there. */
  logits: Float32Array;
  /** f32 `[tokenIds.length, hidden_size]` when asked for. */
  hiddenStates?: Float32Array;
  /** The positions' best, when asked for. */
  top?: TopLogits[];
  /** The steps that followed; the cache holds their tokens. */
  followed?: Followed[];
  /** In the order asked for. */
  layers?: LayerInside[];
}

/** Options of {@linkcode Backend.forward}. */
export interface ForwardOptions {
  /**
   * Cancels between passes, where the rows take several: a row that has started is finished, and its cache then holds
   * its tokens.
   */
  signal?: AbortSignal;
}

/** What a backend says of itself at start-up and in `/v1/models`. */
export interface BackendInfo {
  name: "ort-wasm" | "ort-webgpu" | "simd";
  /** What computes, where it is not the CPU: a GPU's name. */
  device?: string;
  /** Threads that share a forward pass. */
  threads: number;
  /**
   * Id of the arithmetic: two backends with the same id give the same bits for the same input.
   * Travels with any stored KV.
   */
  variant: string;
  /** Whether a token's logits are the same bits however many tokens share its pass. */
  rowInvariant: boolean;
  /** Whether a forked cache shares memory with its origin until one of them is written. */
  kvShares: boolean;
  /** KV memory that there can be, in bytes. @default not known */
  kvRoomBytes?: number;
  /** Prompt tokens of a pass that make good use of it. @default 128 */
  prefillTokens?: number;
  /** Steps of decode that it may begin before they are asked for. @default 0 */
  stepsAhead?: number;
  /** Whether it shows the inside of attention ({@linkcode ForwardRow.inspect}). */
  inspects: boolean;
  /** Why it was chosen, for people. */
  reason: string;
  /** One phrase for people, such as "f32 weights expanded at load, KV in the WASM heap". */
  detail: string;
}

/** KV memory in use. */
export interface BackendStats {
  /** Pieces that caches hold: blocks of 16 tokens on `simd`, each counted once however many caches share it; else caches. */
  kvBlocks: number;
  kvBytes: number;
}

/**
 * Runs the model's forward pass on its own thread. Holds weights and KV memory; knows nothing of
 * tokens' text, sessions or HTTP.
 */
export interface Backend extends AsyncDisposable {
  readonly info: BackendInfo;
  /** Why no pass can run any more, once that is so: the inference thread died or was closed. */
  readonly failure: Error | undefined;
  /**
   * After a pass failed with `BackendUnavailableError`: what passes run on from now on, with caches that are new, or
   * `undefined` where there is nothing else. Absent: never anything else.
   * @throws what starting it throws
   */
  recover?(): Promise<BackendInfo | undefined>;
  /**
   * Somebody wants to know why no pass can run, or wants one: starts again what failed too often to be started of its own
   * accord, if its rest is over. Absent: there is nothing to start.
   */
  revive?(): void;
  /**
   * An empty cache for one sequence. Memory is reserved when tokens arrive and grows with them.
   * @throws {OutOfMemoryError} from the first `forward` that cannot reserve
   */
  createKvCache(): KvCache;
  /**
   * The KV of all tokens of a cache, as bytes that `importKv` of a backend with the same `info.variant` and model takes,
   * part by part: each is valid until the next is asked for. Passes go on between parts; the cache may not change.
   * @throws {TypeError} after `dispose`, or when the cache changed or is another backend's
   * @throws {BackendUnavailableError} when the inference thread died
   */
  exportKv(cache: KvCache): AsyncIterable<Uint8Array>;
  /**
   * A cache of `tokens` tokens, of what `exportKv` gave, however it is cut into parts. They are copied.
   * @throws whatever `parts` throw
   * @throws {RangeError} when the bytes are not so many tokens', or more than the context holds
   * @throws {OutOfMemoryError} when KV memory runs out
   * @throws {BackendUnavailableError} when the inference thread died
   */
  importKv(parts: KvParts, tokens: number): Promise<KvCache>;
  /** What caches hold now, as the inference thread counts it. */
  stats(): Promise<BackendStats>;
  /** Bytes that a cache of `tokens` tokens reserves. */
  kvBytes(tokens: number): number;
  /**
   * One pass over a batch of rows, or one after the other where the backend cannot share a pass. No two rows have the
   * same cache. Concurrent calls queue in order of arrival.
   * @returns one result a row, in order
   * @throws {RangeError} when a row is empty, its cache would outgrow the context length, or two rows share one
   * @throws {OutOfMemoryError} when KV memory runs out; the caches keep their earlier tokens
   * @throws {BackendUnavailableError} when the inference thread died
   * @throws the signal's reason when aborted
   */
  forward(rows: readonly ForwardRow[], options?: ForwardOptions): Promise<RowResult[]>;
}
