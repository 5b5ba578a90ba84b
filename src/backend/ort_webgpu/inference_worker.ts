import { BackendUnavailableError } from "../../errors.ts";
import { workerData } from "../../host/threads.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { onnxFile } from "../../model/onnx_file.ts";
import { serveThread } from "../serve_thread.ts";
import { avoidMappedUploads } from "./deno_uploads.ts";
import { findAdapter, openDevice } from "./gpu_device.ts";
import { GpuSession } from "./gpu_session.ts";
import { loadGraph } from "./loaded_graph.ts";
import { loadOnnxRuntime } from "./onnxruntime.ts";

/** What is opted in to of what is not documented, or not checked. */
export interface UnsafeOptions {
  /** Read results by `unsafe_read.ts`. Deno only; elsewhere reading is fast. */
  read: boolean;
  /** Dawn leaves out its checks; see `dawn.ts`. */
  unvalidated: boolean;
}

/** What the thread needs to load a model; handed over as `workerData`. */
export interface LoadOptions {
  /** The model folder: of two graphs it takes the one that has what it computes in. */
  modelDir: string;
  config: ModelConfig;
  /** How weights, activations and KV are held. `"auto"` takes f16 where shaders have it. */
  precision: "auto" | "f16" | "f32";
  /** What products may take: see `keepActivations` in `gpu_graph.ts`. `"auto"` rounds beside f16. */
  activations: "auto" | "f32" | "int8";
  /** Replay captured steps of decode. */
  capture: boolean;
  /** Steps of decode that may be on their way at a time beside the one that is asked for. */
  ahead: number;
  unsafe: UnsafeOptions;
  /** Also use an adapter that computes on the CPU. */
  software: boolean;
  /** For tests: the device is lost in the pass after so many. */
  loseAfter: number | undefined;
}

await serveThread(async ({ onProgress, fail }) => {
  const { modelDir, config, precision, activations, capture, ahead, unsafe, software, loseAfter } =
    workerData as LoadOptions;
  const found = await findAdapter(unsafe.unvalidated);
  if (found.software && !software) {
    throw new BackendUnavailableError(`Cannot use WebGPU: its adapter ${found.name} computes on the CPU, wanted a GPU`);
  }
  const half = precision === "auto" ? found.half : precision === "f16";
  const device = await openDevice(found);
  avoidMappedUploads(device);
  // What a refused command should have written would be read all the same.
  device.addEventListener("uncapturederror", (event) => {
    fail(`the GPU refused a command: ${(event as GPUUncapturedErrorEvent).error.message}`);
  });
  const ort = await loadOnnxRuntime();
  const products = activations === "auto" ? (half ? "int8" : "f32") : activations;
  const onnxPath = onnxFile(modelDir, half ? "f16" : "f32");
  const load = (captures: boolean) =>
    loadGraph({ ort, device, onnxPath, config, half, activations: products }, captures);
  const options = { ort, device, deviceName: found.name, config, half, capture, ahead, unsafeRead: unsafe.read };
  onProgress("uploading weights", 0);
  const session = await GpuSession.create(load, options);
  onProgress("uploading weights", 1);
  device.lost.then(({ message }) => {
    if (!session.closed) fail(`the GPU was lost${message ? `, ${message}` : ""}`);
  });
  if (loseAfter !== undefined) loseDevice(session, device, loseAfter);
  return { session, kind: half ? "f16" : "f32", threads: 1 };
});

/** Destroys the device under the session when it begins the pass after so many. */
function loseDevice(session: GpuSession, device: GPUDevice, passes: number): void {
  const run = session.run.bind(session);
  let done = 0;
  session.run = async (rows) => {
    if (done++ === passes) device.destroy();
    return await run(rows);
  };
}
