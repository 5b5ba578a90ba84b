import { BackendUnavailableError } from "../errors.ts";
import type { ModelFolder } from "../model/model_folder.ts";
import type { Backend } from "./backend.ts";
import { createOrtWasmBackend } from "./ort_wasm/ort_wasm_backend.ts";
import { createSimdBackend } from "./simd/simd_backend.ts";
import type { ActivationType, KvType } from "./simd/wasm_engine.ts";

/** Which backend to run on; `"auto"` takes the first that can. */
export type BackendChoice = "auto" | "ort-wasm" | "simd";

/** Options of {@linkcode selectBackend}. */
export interface SelectBackendOptions {
  model: ModelFolder;
  threads: number;
  /** How `simd` keeps keys and values. @default "f32" */
  kv?: KvType;
  /** What `simd` multiplies by. @default "int8" */
  activations?: ActivationType;
  /** Memory for weights, in bytes. */
  memoryBudgetBytes: number;
  onProgress?: (step: string, fraction: number) => void;
  /** Called when the thread that runs the model died, before it is replaced. */
  onCrash?: (error: Error) => void;
}

type Create = (options: SelectBackendOptions, reason: string) => Promise<Backend>;

/** Every backend by name. */
const BACKENDS: Readonly<Record<Exclude<BackendChoice, "auto">, Create>> = {
  "ort-wasm": ({ model, ...options }, reason) =>
    createOrtWasmBackend({ ...options, reason, modelDir: model.path, config: model.config }),
  "simd": ({ model, ...options }, reason) =>
    createSimdBackend({ ...options, reason, modelDir: model.path, config: model.config }),
};

/** What `"auto"` tries, in order. */
const AUTO: readonly Exclude<BackendChoice, "auto">[] = ["simd", "ort-wasm"];

/**
 * Starts the backend asked for, or the first that runs here.
 * @throws {BackendUnavailableError} with the reason of each that cannot
 */
export async function selectBackend(choice: BackendChoice, options: SelectBackendOptions): Promise<Backend> {
  if (choice !== "auto") {
    const create = Object.hasOwn(BACKENDS, choice) ? BACKENDS[choice] : undefined;
    if (create) return await create(options, "it was asked for");
    throw new BackendUnavailableError(
      `Cannot use backend "${choice}": wanted "auto" or one of "${Object.keys(BACKENDS).join('", "')}"`,
    );
  }
  const failures: string[] = [];
  for (const name of AUTO) {
    try {
      const skipped = failures.length > 0 ? `, after ${failures.join("; ")}` : "";
      return await BACKENDS[name](options, `picked by auto from ${AUTO.join(", ")}${skipped}`);
    } catch (error) {
      // With a single candidate its own error says it best.
      if (AUTO.length === 1) throw error;
      failures.push(`${name}: ${(error as Error).message}`);
    }
  }
  throw new BackendUnavailableError(`Cannot start a backend: ${failures.join("; ")}`);
}
