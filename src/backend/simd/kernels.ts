import { assetUrl, readAsset } from "../../host/assets.ts";
import type { AttentionProbeConstructor, WasmEngineConstructor } from "./wasm_engine.ts";

/** The kernels' exports; what their numbers mean is said in `wasm/src/lib.rs`. Pointers are byte addresses. */
export interface KernelExports {
  /** A whole forward pass over these kernels. */
  readonly Engine: WasmEngineConstructor;
  readonly AttentionProbe: AttentionProbeConstructor;
  /** Zeroed, 64-byte aligned; 0 when there is not so much memory. Views of the memory go stale when it grows. */
  allocate(bytes: number): number;
  release(pointer: number, bytes: number): void;
  /** Threads in all; the others have called `help`, or will. */
  set_threads(threads: number): void;
  /** Runs parts of the coordinator's passes until `dismiss`. */
  help(thread: number): void;
  /** In place of a return from `help` that threw. */
  help_failed(): void;
  dismiss(): void;
  matrix_bytes(weights: Weights, n: number, k: number): number;
  activation_bytes(m: number, k: number): number;
  /** How many scales and minima f16 had to round; -1 when it cannot hold one. */
  pack(
    weights: Weights,
    n: number,
    k: number,
    qweight: number,
    scales: number,
    zeros: number,
    packedZeros: boolean,
    to: number,
  ): number;
  quantize_rows(x: number, m: number, k: number, tile: number, to: number, from: number, until: number): void;
  /** Columns of panels `from..until` of 16 of f32 `[m, n]`. */
  matmul(
    dot: Dot,
    weights: Weights,
    w: number,
    n: number,
    x: number,
    m: number,
    k: number,
    tile: number,
    expand: boolean,
    result: number,
    from: number,
    until: number,
  ): void;
  /** f32 rows, not quantized. */
  matmul_f32(
    weights: Weights,
    w: number,
    n: number,
    x: number,
    m: number,
    k: number,
    result: number,
    scalar: boolean,
  ): void;
  scalar_pack: KernelExports["pack"];
  scalar_quantize_rows(x: number, m: number, k: number, tile: number, to: number): void;
  scalar_matmul(
    weights: Weights,
    w: number,
    n: number,
    x: number,
    m: number,
    k: number,
    tile: number,
    result: number,
  ): void;
  choose_dot(weights: Weights): Dot;
  /** Another that is right, and may be faster. */
  other_dot(weights: Weights): Dot | undefined;
  has_kernel(dot: Dot, weights: Weights, tile: number, expand: boolean): boolean;
  self_test(dot: Dot, weights: Weights): boolean;
  /** `matmul` of all panels, on all threads; and a loop that only reads so many bytes, on all threads. */
  matmul_shared(
    dot: Dot,
    weights: Weights,
    w: number,
    n: number,
    x: number,
    m: number,
    k: number,
    tile: number,
    expand: boolean,
    result: number,
  ): void;
  read_shared(pointer: number, bytes: number): number;
}

/** Form of a packed matrix. */
export const Weights = { Int4: 0, Int4Affine: 1, Int8: 2 } as const;
export type Weights = typeof Weights[keyof typeof Weights];

/** Inner instruction; all give the same bits. */
export const Dot = { Plain: 0, I16: 1, I32: 2 } as const;
export type Dot = typeof Dot[keyof typeof Dot];

/** Builds of the same kernels, best first. */
export const VARIANTS = ["relaxed-threads", "simd128-threads", "simd128"] as const;
export type Variant = typeof VARIANTS[number];

/** One build of the kernels, instantiated. */
export interface Kernels {
  readonly variant: Variant;
  readonly exports: KernelExports;
  readonly module: WebAssembly.Module;
  /** Shared in the builds with threads. */
  readonly memory: WebAssembly.Memory;
  /** The instruction to use, by form of the weights. */
  readonly dots: Readonly<Record<Weights, Dot>>;
}

/** What a thread hands to another. */
export type SharedKernels = Pick<Kernels, "module" | "memory">;

/** What the generated JavaScript of every build exports. */
interface Glue extends KernelExports {
  initSync(options: { module: WebAssembly.Module; memory: WebAssembly.Memory }): void;
}

/** What a WASM memory with 32-bit addresses ends at, in bytes. */
export const HEAP_BYTES = 2 ** 32;
const PAGE_BYTES = 2 ** 16;
/** Of a new memory; no build declares more. */
const INITIAL_PAGES = 64;

/** The generated JavaScript holds one instance per thread. */
const loaded = new Map<Variant, Promise<Kernels>>();

/** Where a build's memory comes from. */
export interface MemoryOptions {
  /** Module and memory of another thread that has loaded the same build. @default a new memory */
  shared?: SharedKernels;
  /** What a new memory can grow to, in bytes. @default 4 GiB */
  maxHeapBytes?: number;
}

/**
 * Loads one build into this thread. A second call gives the same instance, whatever its options.
 * @throws {WebAssembly.CompileError} where the engine lacks an instruction that the build uses
 */
export function loadVariant(variant: Variant, options: MemoryOptions = {}): Promise<Kernels> {
  const kernels = loaded.get(variant) ?? load(variant, options);
  loaded.set(variant, kernels);
  return kernels;
}

async function load(variant: Variant, { shared, maxHeapBytes }: MemoryOptions): Promise<Kernels> {
  const folder = `wasm/pkg/${variant}`;
  const glue: Glue = await import(assetUrl(`${folder}/kernels.js`).href);
  const module = shared?.module ?? await WebAssembly.compile(await readAsset(`${folder}/kernels_bg.wasm`));
  const memory = shared?.memory ?? newMemory(variant !== "simd128", maxHeapBytes);
  glue.initSync({ module, memory });
  const dots = {
    [Weights.Int4]: glue.choose_dot(Weights.Int4),
    [Weights.Int4Affine]: glue.choose_dot(Weights.Int4Affine),
    [Weights.Int8]: glue.choose_dot(Weights.Int8),
  };
  return { variant, exports: glue, module, memory, dots };
}

/** The instructions that the engine may multiply such weights with, on this runtime. */
export function rightDots({ exports, dots }: Kernels, weights: Weights): Dot[] {
  const other = exports.other_dot(weights);
  return other === undefined ? [dots[weights]] : [dots[weights], other];
}

function newMemory(shared: boolean, maxBytes = HEAP_BYTES): WebAssembly.Memory {
  const maximum = Math.max(INITIAL_PAGES, Math.floor(Math.min(maxBytes, HEAP_BYTES) / PAGE_BYTES));
  return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared });
}

/** Self-tests in a row: some engines' optimised code has been right where their first code was wrong. */
const REPEATS = 4;

/** A page that is not isolated from other origins has no memory that threads could share: it takes the build without. */
const SHARES_MEMORY = globalThis.crossOriginIsolated !== false;

/**
 * The best build that this engine runs and whose kernels give the right bits; undefined when none does.
 * @param maxHeapBytes what its memory can grow to
 */
export async function loadKernels(maxHeapBytes?: number): Promise<Kernels | undefined> {
  for (const variant of SHARES_MEMORY ? VARIANTS : ["simd128"] as const) {
    let kernels: Kernels;
    try {
      kernels = await loadVariant(variant, { maxHeapBytes });
    } catch (error) {
      if (error instanceof WebAssembly.CompileError) continue;
      throw error;
    }
    const passes = (weights: Weights) =>
      rightDots(kernels, weights).every((dot) => kernels.exports.self_test(dot, weights));
    const rounds = Array.from({ length: REPEATS }, () => Object.values(Weights).every(passes));
    if (rounds.every(Boolean)) return kernels;
  }
  return undefined;
}
