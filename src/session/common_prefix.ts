/**
 * Tokens of `ids` whose KV can be kept when `cached` is what the cache holds: the longest common prefix,
 * but never all of `ids`, because a pass over at least one token has to produce the next logits.
 */
export function reusablePrefix(cached: ArrayLike<number>, ids: ArrayLike<number>): number {
  const limit = Math.min(cached.length, ids.length - 1);
  let length = 0;
  while (length < limit && cached[length] === ids[length]) length++;
  return Math.max(length, 0);
}

/** Whether two sequences of ids are the same. */
export const sameIds = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((id, i) => id === b[i]);
