import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskStore } from "../../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../../models/synthetic_model.ts";
import { findAdapter } from "../../../src/backend/ort_webgpu/gpu_device.ts";
import { type ModelFolder, readModelFolder } from "../../../src/model/model_folder.ts";

/** Why nothing can be tested on WebGPU here; `false` where it can. Mesa's llvmpipe will do. */
export const noGpu: string | false = await findAdapter().then(() => false, (error: Error) => error.message);

if (noGpu && process.env.WEBGPU_REQUIRED) throw new Error(noGpu);
if (noGpu) console.log(`WebGPU is not tested here: ${noGpu}`);

/** A tiny Phi-3 on disk; gone when disposed. */
export interface TinyPhi3 extends AsyncDisposable {
  model: ModelFolder;
}

export async function tinyPhi3(): Promise<TinyPhi3> {
  const path = await mkdtemp(join(tmpdir(), "hearth-phi3-"));
  {
    using store = new DiskStore(path);
    writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "genai");
  }
  return {
    model: await readModelFolder(path),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
