/**
 * How fast the SIMD kernels are, on one thread, for the matrices of Phi-3-mini:
 *
 *   bun bench/kernels.ts [--build relaxed-threads|simd128-threads|simd128] [--runs N] [--dot plain|i16|i32] [--paths]
 *
 * Decode is measured against a loop that only reads the same bytes, in the same module and run: neighbours on the
 * machine take bandwidth, so figures of different runs say little. `--paths` times every kernel at several M.
 */
import { parseArgs } from "node:util";
import { Dot, loadVariant, type Variant, Weights } from "../src/backend/simd/kernels.ts";

/** `[N, K]`: qkv, attention output, gate and up, down. */
const SHAPES = [[9216, 3072], [3072, 3072], [16384, 3072], [3072, 8192]] as const;
/** More than caches hold. */
const LAYERS = 4;
const HEAD = [32064, 3072] as const;

const { values: flags } = parseArgs({
  options: {
    build: { type: "string", default: "relaxed-threads" },
    runs: { type: "string", default: "7" },
    dot: { type: "string" },
    paths: { type: "boolean", default: false },
  },
});
const runs = Number(flags.runs);
const { exports, memory, dots } = await loadVariant(flags.build as Variant);
const dotNames: Record<string, Dot> = { plain: Dot.Plain, i16: Dot.I16, i32: Dot.I32 };
const dotName = (dot: Dot) => Object.keys(dotNames).find((name) => dotNames[name] === dot)!;
const dotOf = (weights: Weights) => flags.dot && weights !== Weights.Int8 ? dotNames[flags.dot]! : dots[weights];

/** Best time in ms. */
function best(run: () => void): number {
  let smallest = Infinity;
  for (let i = 0; i <= runs; i++) {
    const startedAt = performance.now();
    run();
    // The first run warms up.
    if (i > 0) smallest = Math.min(smallest, performance.now() - startedAt);
  }
  return smallest;
}

function filled(bytes: number): number {
  const pointer = exports.allocate(bytes);
  if (pointer === 0) throw new Error(`Cannot allocate ${bytes} bytes in the module's memory`);
  // As f16, 0x2c2c is a usual scale; what the quants are does not matter.
  new Uint8Array(memory.buffer, pointer, bytes).fill(0x2c);
  return pointer;
}

const M = 64;
const widest = 8192;
const rows = exports.allocate(exports.activation_bytes(256, widest));
const result = exports.allocate(4 * 256 * HEAD[0]);
const input = exports.allocate(4 * 256 * widest);
new Float32Array(memory.buffer, input, 256 * widest).forEach((_, i, x) => x[i] = (i * 7919) % 255 - 127);

interface Path {
  tile: number;
  expand: boolean;
}
const planned = (dot: Dot, m: number): Path => {
  const plan = exports.plan(dot, m);
  return { tile: plan % 16, expand: plan >= 16 };
};

function multiply(w: number, weights: Weights, dot: Dot, [n, k]: readonly [number, number], m: number, path: Path) {
  exports.matmul(dot, weights, w, n, rows, m, k, path.tile, path.expand, result, 0, Math.ceil(n / 16));
}

/** GOPS of every path on the first shape, taken in turns so that a busy neighbour disturbs all alike. */
function gops(w: number, weights: Weights, dot: Dot, m: number, paths: Path[]): number[] {
  const [n, k] = SHAPES[0];
  const smallest = paths.map(() => Infinity);
  for (let i = 0; i <= 2 * runs; i++) {
    paths.forEach((path, p) => {
      exports.quantize_rows(input, m, k, path.tile, rows, 0, m);
      const startedAt = performance.now();
      multiply(w, weights, dot, SHAPES[0], m, path);
      if (i > 0) smallest[p] = Math.min(smallest[p]!, performance.now() - startedAt);
    });
  }
  return smallest.map((ms) => 2 * m * n * k / ms / 1e6);
}

const fixed = (value: number, digits = 1) => value.toFixed(digits).padStart(8);
const runtime = process.versions.bun ? `Bun ${process.versions.bun}` : `Deno ${process.versions.deno ?? "?"}`;
console.log(`${runtime}, build ${flags.build}, 1 thread, best of ${runs}\n`);

for (const [name, weights] of [["int4", Weights.Int4], ["int4 affine", Weights.Int4Affine]] as const) {
  const dot = dotOf(weights);
  console.log(`${name}, dot ${dotName(dot)}`.padEnd(26), "    ms  GB/s    read GB/s  of read  GOPS at M=64");
  const bytes = SHAPES.map(([n, k]) => exports.matrix_bytes(weights, n, k));
  const layer = bytes.reduce((sum, b) => sum + b, 0);
  const w = filled(LAYERS * layer);
  let offset = 0;
  let total = 0;
  SHAPES.forEach((shape, i) => {
    const [n, k] = shape;
    const each = (run: (w: number) => void) => () => {
      for (let l = 0; l < LAYERS; l++) run(w + l * layer + offset);
    };
    exports.quantize_rows(input, 1, k, 1, rows, 0, 1);
    const ms = best(each((w) => multiply(w, weights, dot, shape, 1, planned(dot, 1)))) / LAYERS;
    const readMs = best(each((w) => exports.read_memory(w, bytes[i]!))) / LAYERS;
    const path = planned(dot, M);
    exports.quantize_rows(input, M, k, path.tile, rows, 0, M);
    const gemmMs = best(() => multiply(w + offset, weights, dot, shape, M, path));
    console.log(
      `  [${n}, ${k}]`.padEnd(22),
      fixed(ms, 3),
      fixed(bytes[i]! / ms / 1e6),
      fixed(bytes[i]! / readMs / 1e6),
      fixed(100 * readMs / ms, 0) + "%",
      fixed(2 * M * n * k / gemmMs / 1e6, 0),
    );
    offset += bytes[i]!;
    total += ms;
  });
  console.log(`  one layer ${total.toFixed(2)} ms, 32 layers ${(32 * total).toFixed(1)} ms\n`);
  if (flags.paths) {
    for (const m of [1, 2, 3, 4, 8, 16, 64, 256]) {
      const all = [1, 2, 4].flatMap((tile) => [false, true].map((expand) => ({ tile, expand })))
        .filter(({ tile, expand }) => tile <= m && exports.has_kernel(dot, weights, tile, expand));
      const speeds = gops(w, weights, dot, m, all);
      const named = all.map(({ tile, expand }, i) => `${tile}${expand ? " expanded" : ""}: ${speeds[i]!.toFixed(0)}`);
      console.log(`  M=${m}`.padEnd(8), named.join(", "));
    }
  }
  exports.release(w, LAYERS * layer);
}

const dot = dotOf(Weights.Int8);
const bytes = exports.matrix_bytes(Weights.Int8, ...HEAD);
const w = filled(2 * bytes);
const twice = (run: (w: number) => void) => () => [w, w + bytes].forEach(run);
exports.quantize_rows(input, 1, HEAD[1], 1, rows, 0, 1);
const ms = best(twice((w) => multiply(w, Weights.Int8, dot, HEAD, 1, { tile: 1, expand: false }))) / 2;
const readMs = best(twice((w) => exports.read_memory(w, bytes))) / 2;
console.log(
  `int8 head [${HEAD.join(", ")}], dot ${dotName(dot)}: ${ms.toFixed(2)} ms, ${(bytes / ms / 1e6).toFixed(1)} GB/s, ` +
    `${(100 * readMs / ms).toFixed(0)}% of the read loop`,
);
for (const tile of flags.paths ? [2, 4] : []) {
  exports.quantize_rows(input, M, HEAD[1], tile, rows, 0, M);
  const ms = best(() => multiply(w, Weights.Int8, dot, HEAD, M, { tile, expand: false }));
  console.log(`  M=${M}, tile ${tile}: ${(2 * M * HEAD[0] * HEAD[1] / ms / 1e6).toFixed(0)} GOPS`);
}
