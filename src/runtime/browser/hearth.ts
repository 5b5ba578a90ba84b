/**
 * Hearth in a page, bundled as `hearth.js`: the same engine, a model that comes over HTTP, sessions in memory.
 *
 * @module
 */
import type { BackendChoice } from "../../backend/select_backend.ts";
import type { Engine } from "../../engine/engine.ts";
import { startEngine, type StartEngineOptions } from "../../engine/start_engine.ts";
import { BackendUnavailableError, ModelFileError } from "../../errors.ts";
import { readModelFolder } from "../../model/model_folder.ts";

export type { Backend, BackendInfo, ForwardRow, RowResult } from "../../backend/backend.ts";
export { Engine } from "../../engine/engine.ts";
export type * from "../../engine/generate_request.ts";
export { Generation } from "../../engine/generation.ts";
export * from "../../errors.ts";
export { Tokenizer } from "../../tokenizer/tokenizer.ts";

/** Options of {@linkcode createEngine}. */
export interface CreateEngineOptions extends Omit<StartEngineOptions, "storage" | "webgpuUnsafe"> {
  /** URL of a model folder, relative to the page's. Its server has to take `Range`, and of another origin allow it. */
  model: string | URL;
  /** @default "auto": `ort-webgpu` where there is a GPU that is no software, else `simd` */
  backend?: Exclude<BackendChoice, "ort-wasm">;
  /** Threads of `simd`. @default the cores, 1 in a page that is not isolated (`crossOriginIsolated`) */
  threads?: number;
}

/**
 * Loads a model and starts a backend for it. The caller disposes the engine.
 * @throws {BackendUnavailableError} when no backend, or not the one asked for, can run here
 * @throws {ModelFileError} when a file of the model is missing, cannot be fetched in parts, or is of another kind
 * @throws {OutOfMemoryError} when the weights do not fit
 */
export async function createEngine({ model, ...options }: CreateEngineOptions): Promise<Engine> {
  if (!isSecureContext) {
    throw new BackendUnavailableError(`Cannot start in ${location.origin}: wanted a page of https or of localhost`);
  }
  return await startEngine(await readModelFolder(folderUrl(model)), options, { measures: false });
}

/** Without the slash at its end, as paths of folders are. */
function folderUrl(model: string | URL): string {
  const { href, protocol, search, hash } = new URL(model, document.baseURI);
  if (/^https?:$/.test(protocol) && search === "" && hash === "") return href.replace(/\/+$/, "");
  throw new ModelFileError(`Cannot use the model ${href}: wanted the URL of a folder, by HTTP and without query`);
}
