import type { Backend } from "../src/backend/backend.ts";
import type { KvCache } from "../src/kv/kv_cache.ts";
import { milliseconds } from "./statistics.ts";

/** Ids without meaning at the places from `from` on, the same everywhere. */
export function contextIds(from: number, count: number, vocabSize: number): number[] {
  return Array.from({ length: count }, (_, i) => (100 + 7919 * (from + i + 1)) % vocabSize);
}

/** Milliseconds of one token more, which is taken back. @throws {Error} when its logits are not finite */
export async function tokenMs(backend: Backend, cache: KvCache, vocabSize: number): Promise<number> {
  const { length } = cache;
  const ms = await milliseconds(async () => {
    const [result] = await backend.forward([{ cache, tokenIds: contextIds(length, 1, vocabSize) }]);
    if (!result!.logits.every(Number.isFinite)) throw new Error("Cannot time a pass: its logits are not finite");
  });
  cache.truncate(length);
  return ms;
}
