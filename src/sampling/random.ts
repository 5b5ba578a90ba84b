/** Numbers from 0 up to, but not including, 1. */
export interface Random {
  (): number;
  /** The next ones, which are yet to come. */
  upcoming(count: number): number[];
}

/**
 * Mulberry32 by Tommy Ettinger (public domain): 32 bits of state, passes gjrand's tests, enough for choosing tokens.
 * The same seed gives the same numbers on every runtime.
 * https://gist.github.com/tommyettinger/46a874533244883189143505d203312c
 * @param seed any integer; what is above 32 bits is folded in. @default from the system's random numbers
 */
export function createRandom(seed?: number): Random {
  const state = seed === undefined
    ? crypto.getRandomValues(new Uint32Array(1))[0]!
    : (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  let taken = 0;
  const number = (i: number) => {
    const s = (state + Math.imul(i, 0x6d2b79f5)) >>> 0;
    let t = Math.imul(s ^ (s >>> 15), s | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return Object.assign(() => number(++taken), {
    upcoming: (count: number) => Array.from({ length: count }, (_, i) => number(taken + 1 + i)),
  });
}
