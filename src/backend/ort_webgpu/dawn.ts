/**
 * WebGPU for a runtime that has none (Bun 1.4): Dawn, from the package `webgpu`, if it is installed.
 * Seen with webgpu 0.6.2: Dawn leaves f16 out on NVIDIA unless `vulkan_enable_f16_on_nvidia` is set.
 * https://github.com/dawn-gpu/node-webgpu
 */
import { BackendUnavailableError } from "../../errors.ts";

/** What this uses of the package, which nobody has to have installed. */
interface DawnPackage {
  create(options: string[]): GPU;
  globals: object;
}

const PACKAGE = "webgpu";

/**
 * Sets `navigator.gpu` and the classes of WebGPU.
 * @param unvalidated Dawn checks no command and no bounds: twice as fast, and what a wrong graph does is not contained.
 *   Not documented; for graphs of our own making only, and never unless asked for
 * @throws {BackendUnavailableError} when the package is not installed or does not load
 */
export async function provideDawn(unvalidated: boolean): Promise<void> {
  let dawn: DawnPackage;
  try {
    dawn = await import(PACKAGE) as DawnPackage;
  } catch (cause) {
    throw new BackendUnavailableError(
      `Cannot use WebGPU: this runtime has no navigator.gpu, and the package "${PACKAGE}" is not installed or does not ` +
        "load; run `bun add --no-save webgpu@0.6.2`",
      { cause },
    );
  }
  const toggles = ["vulkan_enable_f16_on_nvidia", ...(unvalidated ? ["skip_validation", "disable_robustness"] : [])];
  Object.assign(globalThis, dawn.globals);
  const gpu = dawn.create(["backend=vulkan", `enable-dawn-features=${toggles.join(",")}`]);
  Object.defineProperty(navigator, "gpu", { value: gpu, configurable: true });
}
