import type { LogitsWanted } from "../backend.ts";
import type { SessionRow } from "../model_session.ts";

/** Tokens of a pass at most: the weights' cost is shared well by then. */
export const PASS_TOKENS = 256;

/** Tokens `from..from + count` of a row, as one pass runs them. */
export interface RowPart {
  /** Place of the row in its batch. */
  row: number;
  from: number;
  count: number;
  logits: LogitsWanted;
}

/**
 * Cuts a batch of rows into passes of at most `limit` tokens: activations and logits then take no more memory than that
 * many rows, however long a prompt is. A token's result does not depend on the cut.
 */
export function cutPasses(rows: readonly SessionRow[], limit: number): RowPart[][] {
  const passes: RowPart[][] = [];
  let room = 0;
  rows.forEach(({ tokenIds: { length }, logits }, row) => {
    for (let from = 0, count: number; from < length; from += count, room -= count) {
      if (room === 0) {
        passes.push([]);
        room = limit;
      }
      count = Math.min(room, length - from);
      const isEnd = from + count === length;
      passes.at(-1)!.push({ row, from, count, logits: logits === "last" && !isEnd ? "none" : logits });
    }
  });
  return passes;
}
