/** In a page's bundle this takes the place of what is not for pages. */
import { BackendUnavailableError } from "../../errors.ts";

/** Of `ort_wasm/ort_wasm_backend.ts`. */
export const createOrtWasmBackend = (): Promise<never> =>
  Promise.reject(new BackendUnavailableError("Cannot use ort-wasm: it is not for pages, wanted simd or ort-webgpu"));

/** Of `ort_webgpu/dawn.ts`. */
export const provideDawn = (): Promise<never> =>
  Promise.reject(new BackendUnavailableError("Cannot use WebGPU: this browser has no navigator.gpu"));
