import type { Weights } from "./kernels.ts";

/** The engine in the module, as `wasm/src/engine.rs` describes it. */
export interface WasmEngine {
  new_matrix(slot: number, layer: number, weights: Weights, n: number, k: number): boolean;
  pack_rows(
    slot: number,
    layer: number,
    first: number,
    rows: number,
    qweight: number,
    scales: number,
    zeros: number,
    packedZeros: boolean,
  ): number;
  set_table(first: number, count: number, values: number, half: boolean): number;
  set_vector(slot: number, layer: number, values: number, count: number): boolean;
  sequence_new(): number;
  sequence_truncate(id: number, length: number): void;
  sequence_free(id: number): void;
  sequence_fork(id: number, length: number): number | undefined;
  sequence_fill(id: number, tokens: number): boolean;
  used_blocks(): number;
  block_bytes(): number;
  copy_block_out(id: number, index: number, to: number): void;
  copy_block_in(id: number, index: number, from: number): void;
  forward(rows: number, count: number, ids: number): boolean;
  logits(): number;
  rank(position: number, k: number): number;
  ranked_ids(): number;
  ranked_logits(): number;
  watch(layer: number): void;
  unwatch(): void;
  watched_qkv(): number;
  watched_weights(): number;
  states(): number;
}

/** Tokens of a KV block, as in `wasm/src/kv.rs`. */
export const BLOCK_TOKENS = 16;

/** How keys and values are kept, and the engine's number for it. */
export const KV_TYPES = { f32: 0, int8: 1 } as const;
export type KvType = keyof typeof KV_TYPES;
export type KvTypeNumber = typeof KV_TYPES[keyof typeof KV_TYPES];

/** What products take activations as: rounded to int8 a block of 32 at a time, or as they are. */
export type ActivationType = "int8" | "f32";

/** Attention alone, for tests and measurements, as `wasm/src/attention_probe.rs` describes it. */
export interface AttentionProbe {
  append(qkv: number, count: number): void;
  attend(qkv: number, count: number, out: number, scalar: boolean): void;
  free(): void;
}

export type AttentionProbeConstructor = new (
  kv: KvTypeNumber,
  heads: number,
  kvHeads: number,
  headDim: number,
  window: number,
) => AttentionProbe;

/** The engine's sizes, in the order of `Engine::new`. */
export type WasmEngineConstructor = new (
  layers: number,
  hidden: number,
  intermediate: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  rotaryDim: number,
  vocab: number,
  epsilon: number,
  /** 0 for none */
  window: number,
  kv: KvTypeNumber,
  f32Activations: boolean,
) => WasmEngine;
