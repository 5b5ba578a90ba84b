import { BackendUnavailableError } from "../errors.ts";
import type { ModelFolder } from "../model/model_folder.ts";
import type { Backend } from "./backend.ts";
import { createOrtWasmBackend } from "./ort_wasm/ort_wasm_backend.ts";

/** Which backend to run on; `"auto"` takes the first that can. */
export type BackendChoice = "auto" | "ort-wasm";

/** Options of {@linkcode selectBackend}. */
export interface SelectBackendOptions {
  model: ModelFolder;
  threads: number;
  /** Memory for weights, in bytes. */
  memoryBudgetBytes: number;
  onProgress?: (step: string, fraction: number) => void;
}

/** Backends in the order in which `"auto"` tries them. */
const CANDIDATES: Readonly<
  Record<Exclude<BackendChoice, "auto">, (options: SelectBackendOptions, reason: string) => Promise<Backend>>
> = {
  "ort-wasm": ({ model, ...options }, reason) =>
    createOrtWasmBackend({ ...options, reason, modelDir: model.path, config: model.config }),
};

/**
 * Starts the backend asked for, or the first that runs here.
 * @throws {BackendUnavailableError} with the reason of each that cannot
 */
export async function selectBackend(choice: BackendChoice, options: SelectBackendOptions): Promise<Backend> {
  if (choice !== "auto") {
    const create = Object.hasOwn(CANDIDATES, choice) ? CANDIDATES[choice] : undefined;
    if (create) return await create(options, "it was asked for");
    throw new BackendUnavailableError(
      `Cannot use backend "${choice}": wanted "auto" or one of "${Object.keys(CANDIDATES).join('", "')}"`,
    );
  }
  const failures: string[] = [];
  for (const [name, create] of Object.entries(CANDIDATES)) {
    try {
      const skipped = failures.length > 0 ? `, after ${failures.join("; ")}` : "";
      return await create(options, `picked by auto from ${Object.keys(CANDIDATES).join(", ")}${skipped}`);
    } catch (error) {
      // With a single candidate its own error says it best.
      if (Object.keys(CANDIDATES).length === 1) throw error;
      failures.push(`${name}: ${(error as Error).message}`);
    }
  }
  throw new BackendUnavailableError(`Cannot start a backend: ${failures.join("; ")}`);
}
