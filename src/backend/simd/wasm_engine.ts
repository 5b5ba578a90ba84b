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
  set_vector(slot: number, layer: number, values: number, count: number): void;
  sequence_new(): number;
  sequence_truncate(id: number, length: number): void;
  sequence_free(id: number): void;
  forward(rows: number, count: number, ids: number): boolean;
  logits(): number;
  states(): number;
}

/** The engine's sizes, in the order of `Engine::new`. */
export type WasmEngineConstructor = new (
  layers: number,
  hidden: number,
  intermediate: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  vocab: number,
  context: number,
  epsilon: number,
  /** 0 for none */
  window: number,
) => WasmEngine;
