import type { KvCache } from "../../src/kv/kv_cache.ts";
import { milliseconds } from "../statistics.ts";
import type { Case } from "./case.ts";

const ROWS = [1, 2, 4, 8] as const;
/** Tokens that every sequence holds already. */
const CONTEXT = 64;

/** One pass of 1, 2, 4 and 8 sequences, a token each: what continuous batching can gain. */
export const batchRows: Case = async ({ engine: { backend, model }, runs, quick, progress }) => {
  const { vocabSize } = model.config;
  const ids = (row: number, count: number) =>
    Array.from({ length: count }, (_, i) => (100 + 7919 * (i + 1) * (row + 1)) % vocabSize);
  using caches = new DisposableStack();
  const all: KvCache[] = [];
  for (let row = 0; row < ROWS.at(-1)!; row++) {
    const cache = caches.use(backend.createKvCache());
    await backend.forward([{ cache, tokenIds: ids(row, CONTEXT), logits: "none" }]);
    all.push(cache);
  }
  const pass = async (count: number) => {
    const rows = all.slice(0, count).map((cache, row) => ({ cache, tokenIds: ids(row + 50, 1) }));
    const results = await backend.forward(rows);
    for (const { cache } of rows) cache.truncate(CONTEXT);
    return results.map(({ logits }) => logits);
  };
  const together = await pass(ROWS.at(-1)!);
  if (backend.info.rowInvariant) {
    const [alone] = await pass(1);
    const at = alone!.findIndex((value, i) => !Object.is(value, together[0]![i]));
    if (at >= 0) throw new Error(`Cannot time batches: logit ${at} is another in a batch`);
  }
  const best = new Map(ROWS.map((rows) => [rows, Infinity]));
  const rounds = quick ? 2 : 8 * runs;
  for (let round = 0; round <= rounds; round++) {
    for (const rows of ROWS) {
      progress(`${rows} rows, round ${round} of ${rounds}`);
      const ms = await milliseconds(() => pass(rows));
      if (round > 0) best.set(rows, Math.min(best.get(rows)!, ms));
    }
  }
  const perSecond = (rows: typeof ROWS[number]) => 1000 * rows / best.get(rows)!;
  return {
    name: "batch_rows",
    question: "How many tokens a second do passes of several sequences give?",
    checked: backend.info.rowInvariant ? "a row has the same bits alone and among eight" : "all rows ran",
    rows: ROWS.map((rows) => ({
      rows,
      "ms a pass": best.get(rows)!,
      "tokens/s": perSecond(rows),
      "over 1 row": perSecond(rows) / perSecond(1),
    })),
    figures: Object.fromEntries(ROWS.slice(1).map((rows) => [`gain${rows}`, perSecond(rows) / perSecond(1)])),
    plot: {
      title: "Tokens a second by sequences in a pass",
      x: "sequences",
      y: "tokens/s",
      points: ROWS.map((rows) => ({ x: rows, y: perSecond(rows), series: model.id })),
    },
  };
};
