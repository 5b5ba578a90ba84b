/** onnxruntime-web with WebGPU, in the build that suspends WASM by JSPI: a third less CPU a step than its asyncify. */
export type OnnxRuntime = typeof import("onnxruntime-web/jspi");

/** Loads it in this thread. */
export async function loadOnnxRuntime(): Promise<OnnxRuntime> {
  const ort = await withUsefulLocation(() => import("onnxruntime-web/jspi"));
  ort.env.logLevel = "error";
  // The GPU computes: no thread of the CPU has to help.
  ort.env.wasm.numThreads = 1;
  return ort;
}

/**
 * onnxruntime-web resolves its own address against `location.origin` as it loads, which in a worker of Deno 2.9 is the
 * text "null", and no address: meanwhile there is no `location`.
 */
async function withUsefulLocation<T>(load: () => Promise<T>): Promise<T> {
  if (globalThis.location?.origin !== "null") return await load();
  const location = Object.getOwnPropertyDescriptor(globalThis, "location");
  Object.defineProperty(globalThis, "location", { value: undefined, configurable: true });
  try {
    return await load();
  } finally {
    if (location) Object.defineProperty(globalThis, "location", location);
    else Reflect.deleteProperty(globalThis, "location");
  }
}
