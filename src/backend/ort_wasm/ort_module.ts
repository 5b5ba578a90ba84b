/**
 * The functions behind onnxruntime-web's public API, as `onnxruntime-web/ort-wasm-simd-threaded.mjs` exports them:
 * the only way to keep a KV cache in the WASM heap between runs. They come without types or promises of stability,
 * so the version is pinned and the names are checked at start.
 * Seen in onnxruntime-web 1.30.0, `lib/wasm/wasm-types.ts` and `wasm-core-impl.ts`.
 * Why: a CPU tensor cannot stay in the heap, and pre-allocated outputs come back unchanged,
 * https://github.com/microsoft/onnxruntime/issues/25786.
 */
import { BackendUnavailableError } from "../../errors.ts";

/** Pointers and handles are byte offsets into the heap; a status of 0 is success. */
export interface OrtModule {
  readonly PTR_SIZE: number;
  readonly HEAPU8: Uint8Array;
  _malloc(bytes: number): number;
  _free(pointer: number): void;
  /** Also brings `HEAPU8` up to date after another thread made the heap grow. */
  getValue(pointer: number, type: "*" | "i32"): number;
  UTF8ToString(pointer: number): string;
  lengthBytesUTF8(text: string): number;
  stringToUTF8(text: string, pointer: number, maxBytes: number): void;
  mountExternalData(name: string, bytes: Uint8Array): void;
  unmountExternalData(): void;
  _OrtInit(threads: number, loggingLevel: number): number;
  _OrtGetLastError(codePointer: number, messagePointer: number): number;
  _OrtCreateSessionOptions(
    graphOptimizationLevel: number,
    enableCpuMemArena: boolean,
    enableMemPattern: boolean,
    executionMode: number,
    enableProfiling: boolean,
    profileFilePrefix: number,
    logId: number,
    logSeverityLevel: number,
    logVerbosityLevel: number,
    optimizedModelFilePath: number,
  ): number;
  _OrtAddSessionConfigEntry(options: number, key: number, value: number): number;
  _OrtReleaseSessionOptions(options: number): number;
  _OrtCreateSession(model: number, bytes: number, options: number): number | Promise<number>;
  _OrtReleaseSession(session: number): number;
  _OrtCreateTensor(type: number, data: number, bytes: number, dims: number, rank: number, location: number): number;
  _OrtGetTensorData(tensor: number, type: number, data: number, dims: number, rank: number): number;
  _OrtReleaseTensor(tensor: number): number;
  _OrtFree(pointer: number): number;
  _OrtRun(
    session: number,
    inputNames: number,
    inputs: number,
    inputCount: number,
    outputNames: number,
    outputCount: number,
    outputs: number,
    runOptions: number,
  ): number | Promise<number>;
}

const FUNCTIONS = [
  "_malloc",
  "_free",
  "getValue",
  "UTF8ToString",
  "lengthBytesUTF8",
  "stringToUTF8",
  "mountExternalData",
  "unmountExternalData",
  "_OrtInit",
  "_OrtGetLastError",
  "_OrtCreateSessionOptions",
  "_OrtAddSessionConfigEntry",
  "_OrtReleaseSessionOptions",
  "_OrtCreateSession",
  "_OrtReleaseSession",
  "_OrtCreateTensor",
  "_OrtGetTensorData",
  "_OrtReleaseTensor",
  "_OrtFree",
  "_OrtRun",
] as const;

/** Errors and worse. Warnings of the loader about small things would end up in the server's log. */
export const LOG_ERRORS = 3;

interface OrtModuleFactory {
  default(options: { numThreads: number }): Promise<OrtModule>;
}

/**
 * Starts onnxruntime's WASM module with its pool of threads.
 * @throws {BackendUnavailableError} when this version does not export what is needed
 */
export async function loadOrtModule(threads: number): Promise<OrtModule> {
  // @ts-ignore: the entry is in the package's exports, but has no types (onnxruntime-web 1.30.0)
  const { default: factory }: OrtModuleFactory = await import("onnxruntime-web/ort-wasm-simd-threaded.mjs");
  const module = await factory({ numThreads: threads });
  const missing = FUNCTIONS.filter((name) => typeof module[name] !== "function");
  if (missing.length > 0 || module.PTR_SIZE !== 4) {
    throw new BackendUnavailableError(
      `Cannot keep KV in onnxruntime's heap: this version lacks ${missing.join(", ") || "32-bit pointers"}`,
    );
  }
  if (module._OrtInit(threads, LOG_ERRORS) !== 0) throw lastError(module, "start onnxruntime");
  return module;
}

/** onnxruntime's own words about the call that just failed. */
export function lastError(module: OrtModule, action: string): Error {
  const pointers = module._malloc(8);
  module._OrtGetLastError(pointers, pointers + 4);
  const code = module.getValue(pointers, "i32");
  const message = module.getValue(pointers + 4, "*");
  const text = message ? module.UTF8ToString(message) : "no reason given";
  module._free(pointers);
  return new Error(`Cannot ${action}: onnxruntime says ${text} (code ${code})`);
}
