/** `[N, K]` of Phi-3-mini's products in a layer: qkv, attention output, gate and up, down. */
export const SHAPES = [[9216, 3072], [3072, 3072], [16384, 3072], [3072, 8192]] as const;

/** Its lm_head. */
export const HEAD = [32064, 3072] as const;

/** Rows of the products that are timed. */
export const ROWS = [1, 2, 4, 8, 64, 256] as const;

/** Products of two numbers that a layer's matrices take for one row. */
export const LAYER_PRODUCTS = SHAPES.reduce((sum, [n, k]) => sum + n * k, 0);
