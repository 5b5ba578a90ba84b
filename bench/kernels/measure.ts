/**
 * Times the kernels on the matrices of Phi-3-mini: a program of its own for each number of threads, since a pool that
 * was closed cannot be opened again. It answers each line of its input, a {@linkcode MeasureRequest}, with a line.
 */
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { Dot, loadVariant, type Variant, Weights } from "../../src/backend/simd/kernels.ts";
import { startPool } from "./pool.ts";
import { HEAD, LAYER_PRODUCTS, ROWS, SHAPES } from "./shapes.ts";

/** Best times of so many runs of one form of weights. */
export interface MeasureRequest {
  weights: keyof typeof Weights;
  runs: number;
}

/** Speeds of one form; neighbours take bandwidth, so `readGBs` was measured between the others. */
export interface Measured {
  dot: string;
  /** A loop that only reads the weights. */
  readGBs: number;
  /** One row. */
  decodeGBs: number;
  /** Billions of operations a second, two for each product of numbers; by rows, of the fastest way. */
  gops: Record<number, number>;
  /** The way that was fastest, by rows. */
  way: Record<number, string>;
}

/** Layers of weights: more than caches hold. */
const LAYERS = 4;

const { values: flags } = parseArgs({
  options: { threads: { type: "string", default: "1" }, build: { type: "string", default: "relaxed-threads" } },
});
const kernels = await loadVariant(flags.build as Variant);
const { exports, memory, dots } = kernels;
const threads = Number(flags.threads);
const pool = await startPool(kernels, threads);

const mostRows = Math.max(...ROWS);
const widest = Math.max(...SHAPES.map(([, k]) => k));
const allocate = (bytes: number): number => {
  const pointer = exports.allocate(bytes) >>> 0;
  if (pointer === 0) throw new Error(`Cannot allocate ${bytes} bytes in the module's memory`);
  return pointer;
};
const input = allocate(4 * mostRows * widest);
new Float32Array(memory.buffer, input, mostRows * widest).forEach((_, i, x) => x[i] = (i * 7919) % 255 - 127);
const quantized = new Map([3072, 8192].map((k) => [k, allocate(exports.activation_bytes(mostRows, k))]));
const result = allocate(4 * mostRows * HEAD[0]);

/** One way to do the same work. */
interface Way {
  name: string;
  /** 0 for the loop that only reads. */
  rows: number;
  /** @returns milliseconds */
  run(): number;
  /** Least of them. */
  best: number;
}

function measure({ weights: name, runs }: MeasureRequest): Measured {
  const form = Weights[name];
  const dot = dots[form];
  const shapes: readonly (readonly [number, number])[] = form === Weights.Int8 ? [HEAD] : SHAPES;
  const sizes = shapes.map(([n, k]) => exports.matrix_bytes(form, n, k));
  const layers = form === Weights.Int8 ? 2 : LAYERS;
  const bytes = layers * sizes.reduce((sum, size) => sum + size, 0);
  const w = allocate(bytes);
  // As f16, 0x2c2c is a usual scale; what the quants are does not matter.
  new Uint8Array(memory.buffer, w, bytes).fill(0x2c);
  /** Visits every matrix once. @returns milliseconds */
  const sweep = (visit: (pointer: number, shape: number) => void): number => {
    const startedAt = performance.now();
    let at = w;
    for (let layer = 0; layer < layers; layer++) {
      sizes.forEach((size, i) => {
        visit(at, i);
        at += size;
      });
    }
    return performance.now() - startedAt;
  };
  const product = (rows: number, expand: boolean): Way => {
    const tile = Math.min(rows, 2);
    const run = () => {
      quantized.forEach((to, k) => exports.quantize_rows(input, rows, k, tile, to, 0, rows));
      return sweep((at, i) => {
        const [n, k] = shapes[i]!;
        exports.matmul_shared(dot, form, at, n, quantized.get(k)!, rows, k, tile, expand, result);
      });
    };
    return { name: expand ? "expanded" : "direct", rows, run, best: Infinity };
  };
  const readOnly = () => sweep((at, i) => exports.read_shared(at, sizes[i]!));
  const read: Way = { name: "read", rows: 0, run: readOnly, best: Infinity };
  const ways = ROWS.flatMap((rows) =>
    [false, true].filter((expand) => exports.has_kernel(dot, form, Math.min(rows, 2), expand))
      .map((expand) => product(rows, expand))
  );
  for (let run = 0; run <= runs; run++) {
    for (const way of [read, ...ways]) {
      // What takes long varies little.
      if (way.rows >= 64 && run > 2) continue;
      const ms = way.run();
      // The first run warms up.
      if (run > 0) way.best = Math.min(way.best, ms);
    }
  }
  exports.release(w, bytes);
  const fastest = (rows: number) => ways.filter((way) => way.rows === rows).reduce((a, b) => b.best < a.best ? b : a);
  const products = form === Weights.Int8 ? HEAD[0] * HEAD[1] : LAYER_PRODUCTS;
  return {
    dot: Object.keys(Dot).find((key) => Dot[key as keyof typeof Dot] === dot)!,
    readGBs: bytes / read.best / 1e6,
    decodeGBs: bytes / fastest(1).best / 1e6,
    gops: Object.fromEntries(ROWS.map((rows) => [rows, 2 * rows * layers * products / fastest(rows).best / 1e6])),
    way: Object.fromEntries(ROWS.map((rows) => [rows, fastest(rows).name])),
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(measure(JSON.parse(line) as MeasureRequest)));
}
await pool.close();
process.exit(0);
