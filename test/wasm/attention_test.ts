import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type Kernels, loadVariant, VARIANTS } from "../../src/backend/simd/kernels.ts";
import { KV_TYPES } from "../../src/backend/simd/wasm_engine.ts";
import { makeRows } from "./matrices.ts";
import { Block } from "./packed_matrix.ts";

interface Shape {
  heads: number;
  kvHeads: number;
  headDim: number;
  /** 0 for none */
  window: number;
  tokens: number;
}

/** MHA and GQA, head sizes of Phi-3, Llama and others; lengths around blocks, and windows that begin inside of one. */
const SHAPES: readonly Shape[] = [
  { heads: 1, kvHeads: 1, headDim: 4, window: 0, tokens: 1 },
  { heads: 2, kvHeads: 2, headDim: 96, window: 0, tokens: 33 },
  { heads: 6, kvHeads: 2, headDim: 64, window: 0, tokens: 48 },
  { heads: 9, kvHeads: 3, headDim: 64, window: 21, tokens: 67 },
  { heads: 4, kvHeads: 1, headDim: 80, window: 1, tokens: 18 },
  { heads: 5, kvHeads: 1, headDim: 12, window: 16, tokens: 50 },
  { heads: 2, kvHeads: 1, headDim: 128, window: 40, tokens: 47 },
  // Longer than two segments, and a window that begins in the one before; small, because the scalar twin is slow.
  { heads: 1, kvHeads: 1, headDim: 8, window: 0, tokens: 1100 },
  { heads: 2, kvHeads: 1, headDim: 12, window: 505, tokens: 1045 },
];

/** Heads of queries, keys and values, f32 `[tokens, heads + 2 * kvHeads, headDim]`; one head of zeros among them. */
const makeQkv = ({ heads, kvHeads, headDim, tokens }: Shape) =>
  makeRows(tokens, (heads + 2 * kvHeads) * headDim, headDim).map((value, i) => i % 997 === 0 ? 0 : Math.cbrt(value));

/** Attends all tokens in passes of the given sizes, the last size again and again. f32 `[tokens, heads, headDim]`. */
function attend(
  { exports }: Kernels,
  kv: keyof typeof KV_TYPES,
  shape: Shape,
  qkv: Block,
  out: Block,
  options: { cuts: number[]; scalar?: boolean },
): Float32Array {
  const { heads, kvHeads, headDim, window, tokens } = shape;
  const probe = new exports.AttentionProbe(KV_TYPES[kv], heads, kvHeads, headDim, window);
  out.f32.fill(NaN);
  for (let at = 0, i = 0; at < tokens; i++) {
    const count = Math.min(options.cuts[Math.min(i, options.cuts.length - 1)]!, tokens - at);
    const from = qkv.pointer + 4 * at * (heads + 2 * kvHeads) * headDim;
    probe.append(from, count);
    probe.attend(from, count, out.pointer + 4 * at * heads * headDim, options.scalar ?? false);
    at += count;
  }
  probe.free();
  return out.f32.slice();
}

/** Attention as its formula is, in f64 on what was put in. */
function reference({ heads, kvHeads, headDim, window, tokens }: Shape, qkv: Float32Array): number[] {
  const size = (heads + 2 * kvHeads) * headDim;
  const result: number[] = [];
  for (let token = 0; token < tokens; token++) {
    for (let head = 0; head < heads; head++) {
      const kvHead = Math.floor(head * kvHeads / heads);
      const first = window === 0 ? 0 : Math.max(0, token + 1 - window);
      const at = (t: number, h: number, d: number) => qkv[t * size + h * headDim + d]!;
      const dims = Array.from({ length: headDim }, (_, d) => d);
      const seen = Array.from({ length: token + 1 - first }, (_, i) => first + i);
      const scores = seen.map((t) =>
        dims.reduce((sum, d) => sum + at(token, head, d) * at(t, heads + kvHead, d), 0) / Math.sqrt(headDim)
      );
      const max = Math.max(...scores);
      const powers = scores.map((score) => Math.exp(score - max));
      const norm = powers.reduce((sum, power) => sum + power, 0);
      for (const d of dims) {
        result.push(seen.reduce((sum, t, i) => sum + powers[i]! / norm * at(t, heads + kvHeads + kvHead, d), 0));
      }
    }
  }
  return result;
}

const bits = (values: Float32Array) => new Uint32Array(values.buffer, values.byteOffset, values.length);

/** The inputs of each shape and what the formula makes of them. */
const cases = SHAPES.map((shape) => {
  const values = makeQkv(shape);
  return { shape, values, wanted: reference(shape, values) };
});

// Before describe(), whose tests Deno only registers while it runs synchronously.
const loaded: Kernels[] = [];
for (const variant of VARIANTS) loaded.push(await loadVariant(variant));

for (const kernels of loaded) {
  describe(`attention, ${kernels.variant}`, () => {
    for (const kv of ["f32", "int8"] as const) {
      test(`${kv} KV has the scalar twin's bits, however the tokens were cut, and the formula's values`, () => {
        for (const { shape, values, wanted } of cases) {
          const name = JSON.stringify(shape);
          using qkv = new Block(kernels, values.byteLength).put(values);
          using out = new Block(kernels, 4 * shape.tokens * shape.heads * shape.headDim);
          const scalar = attend(kernels, kv, shape, qkv, out, { cuts: [shape.tokens], scalar: true });
          for (const threads of [1, 3]) {
            // Helpers that never come leave all work to this thread, cut as for three.
            kernels.exports.set_threads(threads);
            for (const cuts of [[shape.tokens], [1], [7, 16], [17, 2, 5]]) {
              const got = attend(kernels, kv, shape, qkv, out, { cuts });
              assert.deepEqual(bits(got), bits(scalar), `${name}, cut ${cuts}, ${threads} threads`);
            }
          }
          kernels.exports.set_threads(1);
          const spread = Math.max(...wanted.map(Math.abs));
          const error = Math.max(...wanted.map((value, i) => Math.abs(value - scalar[i]!)));
          // f32 sums round once a token. 7 bits of a key move a score by some hundredths, and values are rounded to
          // 1/254 of their largest; of twenty times as many results the worst is worse.
          const long = shape.tokens >= 512;
          const tolerance = kv === "f32" ? (long ? shape.tokens * 2 ** -26 : 2e-6) : (long ? 0.1 : 0.06);
          assert.ok(error <= tolerance * spread, `${name}: ${error} of ${spread}`);
        }
      });

      test(`${kv} KV: what is not finite stays in its own head`, () => {
        const shape = { heads: 2, kvHeads: 2, headDim: 32, window: 0, tokens: 20 };
        const values = makeQkv(shape);
        // The value of token 17, head 1.
        values[(17 * 6 + 5) * 32 + 3] = NaN;
        using qkv = new Block(kernels, values.byteLength).put(values);
        using out = new Block(kernels, 4 * 20 * 2 * 32);
        attend(kernels, kv, shape, qkv, out, { cuts: [17, 1] }).forEach((value, i) => {
          const [token, head] = [Math.floor(i / 64), Math.floor(i / 32) % 2];
          if (token < 17 || head === 0) assert.ok(Number.isFinite(value), `${token}, ${head}: ${value}`);
          else if (i % 32 === 3) assert.ok(Number.isNaN(value), `${token}, ${head}: ${value}`);
        });
      });
    }
  });
}
