import { BackendUnavailableError } from "../../errors.ts";
import { provideDawn } from "./dawn.ts";
import { leaveOutOpenGl } from "./deno_backends.ts";

/** An adapter, before anything is asked of it. */
export interface FoundAdapter {
  adapter: GPUAdapter;
  /** The GPU's name as its driver gives it, for people. */
  name: string;
  /** It computes on the CPU: right, and slower than our own engine there. */
  software: boolean;
  /** Whether shaders can have f16. */
  half: boolean;
}

/** How drivers that compute on the CPU call themselves. */
const SOFTWARE = /llvmpipe|lavapipe|swiftshader|software|basic render/i;

/** What onnxruntime's kernels make use of. */
const FEATURES = ["shader-f16", "subgroups"] as const;
/**
 * Threads of a subgroup that they count on at least: with those of 4, as SwiftShader has, onnxruntime-web 1.30.0 gives
 * wrong logits for prompts of 32 to 255 tokens.
 */
const LEAST_SUBGROUP = 8;

/** What it would ask of a device of its own: the most that the adapter has. */
const LIMITS = [
  "maxBindGroups",
  "maxBufferSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxComputeWorkgroupSizeZ",
  "maxComputeWorkgroupStorageSize",
  "maxComputeWorkgroupsPerDimension",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
] as const;

/**
 * The GPU that this runtime offers: Deno its own, Bun by the package `webgpu`.
 * @param unvalidated let Dawn leave out its checks; see `dawn.ts`
 * @throws {BackendUnavailableError} with the reason when there is none
 */
export async function findAdapter(unvalidated = false): Promise<FoundAdapter> {
  const gpu = await provideGpu(unvalidated);
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!adapter) throw new BackendUnavailableError("Cannot use WebGPU: no adapter was found, wanted a GPU with Vulkan");
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  // wgpu describes the GPU and has numbers for the rest; Dawn describes the driver.
  const words = [vendor, architecture, device].filter((text) => text !== "" && !/^\d+$/.test(text));
  const name = [words.join(" "), description].filter(Boolean).join(", ") || "unnamed GPU";
  return {
    adapter,
    name,
    software: isFallbackAdapter || SOFTWARE.test(name),
    half: adapter.features.has("shader-f16"),
  };
}

/** A device with all that onnxruntime can use. The caller destroys it. */
export async function openDevice({ adapter }: FoundAdapter): Promise<GPUDevice> {
  return await adapter.requestDevice({
    requiredFeatures: FEATURES.filter((feature) =>
      adapter.features.has(feature) && (feature !== "subgroups" || hasWideSubgroups(adapter))
    ),
    requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
  });
}

/** wgpu says nothing of their size, and does not have them as a feature. */
const hasWideSubgroups = ({ info }: GPUAdapter) => (info.subgroupMinSize ?? LEAST_SUBGROUP) >= LEAST_SUBGROUP;

async function provideGpu(unvalidated: boolean): Promise<GPU> {
  leaveOutOpenGl();
  if (!navigator.gpu) await provideDawn(unvalidated);
  if (navigator.gpu) return navigator.gpu;
  throw new BackendUnavailableError("Cannot use WebGPU: this runtime has no navigator.gpu");
}
