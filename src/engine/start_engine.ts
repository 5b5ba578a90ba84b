import type { Backend } from "../backend/backend.ts";
import { availableCpus, availableMemoryBytes } from "../backend/host_resources.ts";
import type { UnsafeOptions } from "../backend/ort_webgpu/inference_worker.ts";
import { type BackendChoice, selectBackend } from "../backend/select_backend.ts";
import type { ActivationType, KvType } from "../backend/simd/wasm_engine.ts";
import type { ModelFolder } from "../model/model_folder.ts";
import type { SessionFiles } from "../session/session_files.ts";
import { warmTemplateThread } from "../tokenizer/chat_template.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import type { PublicPrompt } from "./public_prompts.ts";

/** Options of {@linkcode startEngine}. */
export interface StartEngineOptions extends Partial<EngineOptions> {
  /** @default "auto" */
  backend?: BackendChoice;
  /** Threads of a forward pass. @default the CPU quota of this process */
  threads?: number;
  /** How `simd` keeps keys and values: int8 takes a quarter of the memory. @default "f32" */
  kv?: KvType;
  /**
   * What `simd` multiplies by: activations rounded to int8, or f32, for comparing. With `"f32"` a GPU computes in f32 too,
   * where it would take f16.
   * @default "int8"
   */
  activations?: ActivationType;
  /** What `ort-webgpu` may do of what is not documented, or not checked. @default nothing of it */
  webgpuUnsafe?: Partial<UnsafeOptions>;
  /** Memory for weights, in bytes: decides the form they are held in. @default 70% of what is free */
  memoryBudgetBytes?: number;
  /** What the heap of `simd` can grow to, in bytes: weights, KV and the numbers of a pass. @default 4 GiB */
  maxHeapBytes?: number;
  /** Prompts that tenants may share KV of, as {@linkcode Engine.publishPrompts} takes them. @default none */
  publicPrompts?: readonly PublicPrompt[];
  /** Called with what is being done and how far it is, 0 to 1. */
  onProgress?: (step: string, fraction: number) => void;
  /** Called when the thread that runs the model died, before it is replaced: sessions go on, their KV is lost. */
  onCrash?: (error: Error) => void;
}

/** What only some callers have. */
export interface StartEngineHost {
  /** Opens what keeps sessions, for the variant of the backend's arithmetic. @default `storage` of the options */
  openStorage?: (variant: string) => Promise<SessionFiles>;
  /** Whether `"auto"` measures a GPU against the CPU, with the weights loaded twice. @default true */
  measures?: boolean;
}

/**
 * Starts a backend for a model that was read. The caller disposes the engine.
 * @throws {StorageError} what `openStorage` throws
 * @throws {ModelFileError} when the model folder is incomplete or of another kind
 * @throws {OutOfMemoryError} when the weights do not fit, before they are loaded
 * @throws {BackendUnavailableError} when no backend, or not the one asked for, can run here
 * @throws {RangeError} when one of `publicPrompts` cannot be used
 */
export async function startEngine(
  model: ModelFolder,
  options: StartEngineOptions,
  { openStorage, measures }: StartEngineHost = {},
): Promise<Engine> {
  const freeBytes = availableMemoryBytes();
  const backend = await selectBackend(options.backend ?? "auto", {
    model,
    threads: options.threads ?? availableCpus(),
    kv: options.kv,
    activations: options.activations,
    webgpuUnsafe: options.webgpuUnsafe,
    memoryBudgetBytes: options.memoryBudgetBytes ?? freeBytes * 0.7,
    maxHeapBytes: options.maxHeapBytes,
    measures,
    onProgress: options.onProgress,
    onCrash: options.onCrash,
  });
  try {
    await warmTemplateThread();
    const engine = new Engine(model, backend, {
      ...options,
      storage: openStorage ? await openStorage(backend.info.variant) : options.storage,
      kvBudgetBytes: options.kvBudgetBytes ?? defaultKvBudgetBytes(backend, model.config.contextLength, freeBytes),
      warmBudgetBytes: options.warmBudgetBytes ?? Math.min(2 ** 30, freeBytes * 0.1),
      parkedBudgetBytes: options.parkedBudgetBytes ?? 4 * 2 ** 30,
    });
    await engine.publishPrompts(options.publicPrompts ?? []);
    return engine;
  } catch (error) {
    await backend[Symbol.asyncDispose]();
    throw error;
  }
}

/**
 * A fifth of what is free, and never more than the heap leaves. What a GPU has free WebGPU does not tell: there it is
 * room for two streams as long as the context.
 */
function defaultKvBudgetBytes(backend: Backend, contextLength: number, freeBytes: number): number {
  const { device, kvRoomBytes = Infinity } = backend.info;
  if (device !== undefined) return 2 * backend.kvBytes(contextLength);
  return Math.min(kvRoomBytes, 1.5 * 2 ** 30, Math.max(64 * 2 ** 20, freeBytes * 0.2));
}
