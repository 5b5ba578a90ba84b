import { BackendUnavailableError } from "../errors.ts";
import type { ModelFolder } from "../model/model_folder.ts";
import type { Backend } from "./backend.ts";
import { FallbackBackend } from "./fallback_backend.ts";
import { createOrtWasmBackend } from "./ort_wasm/ort_wasm_backend.ts";
import type { UnsafeOptions } from "./ort_webgpu/inference_worker.ts";
import { createOrtWebgpuBackend } from "./ort_webgpu/ort_webgpu_backend.ts";
import { probeDecode } from "./probe_decode.ts";
import { createSimdBackend } from "./simd/simd_backend.ts";
import type { ActivationType, KvType } from "./simd/wasm_engine.ts";

/** Which backend to run on; `"auto"` takes the fastest that can. */
export type BackendChoice = "auto" | BackendName;
type BackendName = Backend["info"]["name"];

/** Options of {@linkcode selectBackend}. */
export interface SelectBackendOptions {
  model: ModelFolder;
  threads: number;
  /** How `simd` keeps keys and values. @default "f32" */
  kv?: KvType;
  /** What `simd` multiplies by; `"f32"` also keeps a GPU from computing in f16. @default "int8" */
  activations?: ActivationType;
  /** What `ort-webgpu` may do of what is not documented, or not checked. @default nothing of it */
  webgpuUnsafe?: Partial<UnsafeOptions>;
  /** Memory for weights, in bytes. */
  memoryBudgetBytes: number;
  /** What the heap of `simd` can grow to, in bytes. @default 4 GiB */
  maxHeapBytes?: number;
  /**
   * Whether `"auto"` measures a GPU against the CPU, where both run. Otherwise it takes the GPU and does not read the
   * weights a second time.
   * @default true
   */
  measures?: boolean;
  onProgress?: (step: string, fraction: number) => void;
  /** Called when the thread that runs the model died, before it is replaced. */
  onCrash?: (error: Error) => void;
}

type Create = (options: SelectBackendOptions, reason: string) => Promise<Backend>;

/** Every backend by name. */
const BACKENDS: Readonly<Record<BackendName, Create>> = {
  "ort-webgpu": (options, reason) => startWebgpu(options, reason, true),
  "simd": ({ model, ...options }, reason) =>
    createSimdBackend({ ...options, reason, modelDir: model.path, config: model.config }),
  "ort-wasm": ({ model, ...options }, reason) =>
    createOrtWasmBackend({ ...options, reason, modelDir: model.path, config: model.config }),
};

/**
 * Starts the backend asked for, or the fastest that runs here.
 * @throws {BackendUnavailableError} with the reason of each that cannot
 */
export async function selectBackend(choice: BackendChoice, options: SelectBackendOptions): Promise<Backend> {
  if (choice === "auto") return await fastest(options);
  const create = Object.hasOwn(BACKENDS, choice) ? BACKENDS[choice] : undefined;
  if (create) return await create(options, "it was asked for");
  throw new BackendUnavailableError(
    `Cannot use backend "${choice}": wanted "auto" or one of "${Object.keys(BACKENDS).join('", "')}"`,
  );
}

/**
 * A real GPU and our engine on the CPU are measured against each other, where both run. `ort-wasm` is for where neither
 * does: on every machine that was measured it is behind `simd`.
 */
async function fastest(options: SelectBackendOptions): Promise<Backend> {
  const skipped: string[] = [];
  const start = async (name: BackendName, create: Create): Promise<Backend | undefined> => {
    try {
      return await create(options, "picked by auto");
    } catch (error) {
      skipped.push(`${name}: ${(error as Error).message}`);
    }
  };
  const gpu = await start("ort-webgpu", (options, reason) => startWebgpu(options, reason, false));
  const simd = gpu && options.measures === false ? undefined : await start("simd", BACKENDS.simd);
  const picked = gpu && simd
    ? await keepFaster(gpu, simd)
    : gpu ?? simd ?? await start("ort-wasm", BACKENDS["ort-wasm"]);
  if (!picked) throw new BackendUnavailableError(`Cannot start a backend: ${skipped.join("; ")}`);
  if (skipped.length > 0) picked.info.reason += `, after ${skipped.join("; ")}`;
  return picked;
}

/**
 * Keeps the one that makes tokens faster, and ends the other. What runs on keeps the reason. One that fails meanwhile is
 * not it: a GPU may be found, take the weights and then not compute.
 * @throws {BackendUnavailableError} when both fail; they are ended then
 */
export async function keepFaster(first: Backend, second: Backend): Promise<Backend> {
  const measured = [await measure(first), await measure(second)];
  const [kept, ended] = measured.sort((a, b) => a.ms - b.ms) as [Measured, Measured];
  await ended.backend[Symbol.asyncDispose]();
  if (kept.failure) {
    await kept.backend[Symbol.asyncDispose]();
    throw new BackendUnavailableError(`Cannot start a backend: ${kept.failure}; ${ended.failure}`);
  }
  const ms = (value: number) => `${value.toFixed(1)} ms a token`;
  kept.backend.info.reason += ended.failure
    ? `, after ${ended.failure}`
    : `: ${ms(kept.ms)}, ${ended.backend.info.name} takes ${ms(ended.ms)}`;
  return kept.backend;
}

interface Measured {
  backend: Backend;
  /** A token takes so long: for ever, where it failed. */
  ms: number;
  failure?: string;
}

async function measure(backend: Backend): Promise<Measured> {
  const { name } = backend.info;
  try {
    return { backend, ms: await probeDecode(backend) };
  } catch (error) {
    return { backend, ms: Infinity, failure: `${name}: ${(error as Error).message}` };
  }
}

/** @param software whether an adapter that computes on the CPU will do */
async function startWebgpu(options: SelectBackendOptions, reason: string, software: boolean): Promise<Backend> {
  const { model, activations, webgpuUnsafe, onProgress, onCrash } = options;
  let backend: FallbackBackend | undefined;
  const gpu = await createOrtWebgpuBackend({
    modelDir: model.path,
    config: model.config,
    reason,
    software,
    precision: activations === "f32" ? "f32" : "auto",
    unsafe: webgpuUnsafe,
    // What drives the GPU may be gone for good: the CPU is there.
    restarts: false,
    onProgress,
    onCrash: (error) => {
      onCrash?.(error);
      backend?.recover().catch((error) => onCrash?.(error));
    },
  });
  return backend = new FallbackBackend(gpu, (why) => BACKENDS.simd(options, why));
}
