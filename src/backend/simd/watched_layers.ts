import type { ModelConfig } from "../../model/model_config.ts";
import type { RowResult } from "../backend.ts";
import type { SessionRow } from "../model_session.ts";
import type { RowPart } from "./cut_passes.ts";
import type { WasmEngine } from "./wasm_engine.ts";

/** Where a pass left what it saw of the layers that it watched. */
export interface WatchedPass {
  engine: Pick<WasmEngine, "watched_qkv" | "watched_weights">;
  config: ModelConfig;
  /** Layers, in the order in which the engine was told of them. */
  layers: readonly number[];
  /** The heap's own numbers, f32. */
  floats(pointer: number, count: number): Float32Array;
}

/** Copies what a pass over `parts` left of the watched layers to the rows that asked for it. */
export function copyWatched(
  { engine, config, layers: watched, floats }: WatchedPass,
  rows: readonly SessionRow[],
  parts: readonly RowPart[],
  results: readonly RowResult[],
): void {
  const { headDim, numAttentionHeads: heads, numKeyValueHeads: kvHeads } = config;
  const tokens = parts.reduce((sum, { count }) => sum + count, 0);
  const longest = Math.max(...parts.map(({ row, from, count }) => rows[row]!.start + from + count));
  const [qkvAt, weightsAt] = [engine.watched_qkv() >>> 0, engine.watched_weights() >>> 0];
  const size = (heads + 2 * kvHeads) * headDim;
  let first = 0;
  for (const { row, from, count } of parts) {
    for (const { layer, queries, keys, values, weights } of results[row]!.layers ?? []) {
      const length = weights.length / (heads * rows[row]!.tokenIds.length);
      for (let i = 0; i < count; i++) {
        const token = watched.indexOf(layer) * tokens + first + i;
        const qkv = floats(qkvAt + 4 * token * size, size);
        let at = 0;
        for (const to of [queries, keys, values]) {
          const width = to.length / rows[row]!.tokenIds.length;
          to.set(qkv.subarray(at, at += width), (from + i) * width);
        }
        const seen = rows[row]!.start + from + i + 1;
        for (let head = 0; head < heads; head++) {
          const weightsOf = floats(weightsAt + 4 * (token * heads + head) * longest, seen);
          weights.set(weightsOf, (head * rows[row]!.tokenIds.length + from + i) * length);
        }
      }
    }
    first += count;
  }
}
