/** Tokens that a cache begins with. */
const FIRST = 64;

/**
 * Tokens that a cache of `tokens` tokens has room for. Steps grow by a half at most (64, 96, 128, 192, 256, 384, ...):
 * growing copies all that is held, so few steps; unused room is memory that another session could have, so small ones.
 */
export function kvCapacity(tokens: number, contextLength: number): number {
  if (tokens <= 0) return 0;
  let step = FIRST;
  while (step < tokens) step += step & (step - 1) ? step / 3 : step / 2;
  return Math.min(step, Math.max(contextLength, tokens));
}
