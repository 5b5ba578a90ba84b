/** Tokens of a pass at most: what a longer prompt takes is cut. */
export const PASS_TOKENS = 512;
