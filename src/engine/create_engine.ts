import type { Backend } from "../backend/backend.ts";
import { availableCpus, availableMemoryBytes } from "../backend/host_resources.ts";
import type { TransferState } from "../hub/transfer_meter.ts";
import { type BackendChoice, selectBackend } from "../backend/select_backend.ts";
import type { UnsafeOptions } from "../backend/ort_webgpu/inference_worker.ts";
import type { ActivationType, KvType } from "../backend/simd/wasm_engine.ts";
import { modelIdentity } from "../model/model_folder.ts";
import { FolderLock } from "../session/folder_lock.ts";
import { type RecoveredSessions, SessionFiles } from "../session/session_files.ts";
import { warmTemplateThread } from "../tokenizer/chat_template.ts";
import { Engine, type EngineOptions } from "./engine.ts";
import { openModel } from "./open_model.ts";
import type { PublicPrompt } from "./public_prompts.ts";

/** Options of {@linkcode createEngine}. */
export interface CreateEngineOptions extends Partial<EngineOptions> {
  /**
   * A folder under `models/`, a path to a model folder, or `owner/name[@revision]` of a hub, which is pulled into
   * huggingface_hub's cache if it is not there. @default the bundled model
   */
  model?: string;
  /** @default "auto" */
  backend?: BackendChoice;
  /** Threads of a forward pass. @default the CPU quota of this process */
  threads?: number;
  /** How `simd` keeps keys and values: int8 takes a quarter of the memory. @default "f32" */
  kv?: KvType;
  /** What `simd` multiplies by: activations rounded to int8, or f32, for comparing. @default "int8" */
  activations?: ActivationType;
  /** What `ort-webgpu` may do of what is not documented, or not checked. @default nothing of it */
  webgpuUnsafe?: Partial<UnsafeOptions>;
  /** Memory for weights, in bytes: decides the form they are held in. @default 70% of what is free */
  memoryBudgetBytes?: number;
  /** What the heap of `simd` can grow to, in bytes: weights, KV and the numbers of a pass. @default 4 GiB */
  maxHeapBytes?: number;
  /** Folder to keep sessions in, across restarts. One process at a time. @default none: they are in memory only */
  dataDir?: string;
  /** Prompts that tenants may share KV of, as {@linkcode Engine.publishPrompts} takes them. @default none */
  publicPrompts?: readonly PublicPrompt[];
  /** Called with what was found in `dataDir`. */
  onRecover?: (recovered: RecoveredSessions) => void;
  /** Called with what is being done and how far it is, 0 to 1. */
  onProgress?: (step: string, fraction: number) => void;
  /** Called while a model is being pulled. */
  onTransfer?: (state: TransferState) => void;
  /** Called when the thread that runs the model died, before it is replaced: sessions go on, their KV is lost. */
  onCrash?: (error: Error) => void;
}

/**
 * Loads a model and starts a backend for it. The caller disposes the engine.
 * @throws {StorageError} when `dataDir` cannot be used, or another process has it, before anything is loaded
 * @throws {DownloadError} when the model has to be pulled and cannot be
 * @throws {ModelFileError} when the model folder is missing, incomplete or of another kind
 * @throws {OutOfMemoryError} when the weights do not fit, before they are loaded
 * @throws {BackendUnavailableError} when no backend, or not the one asked for, can run here
 * @throws {RangeError} when one of `publicPrompts` cannot be used
 */
export async function createEngine(options: CreateEngineOptions = {}): Promise<Engine> {
  const { dataDir } = options;
  if (!dataDir) return await load(options);
  const lock = await FolderLock.take(dataDir);
  try {
    return await load(options, { dataDir, lock });
  } catch (error) {
    lock[Symbol.dispose]();
    throw error;
  }
}

async function load(
  options: CreateEngineOptions,
  folder?: { dataDir: string; lock: FolderLock },
): Promise<Engine> {
  const floats = options.backend === "ort-webgpu" ? "f16" : "f32";
  const model = await openModel(options.model, { floats, onTransfer: options.onTransfer });
  const freeBytes = availableMemoryBytes();
  const backend = await selectBackend(options.backend ?? "auto", {
    model,
    threads: options.threads ?? availableCpus(),
    kv: options.kv,
    activations: options.activations,
    webgpuUnsafe: options.webgpuUnsafe,
    memoryBudgetBytes: options.memoryBudgetBytes ?? freeBytes * 0.7,
    maxHeapBytes: options.maxHeapBytes,
    onProgress: options.onProgress,
    onCrash: options.onCrash,
  });
  try {
    await warmTemplateThread();
    const storage = folder
      ? await SessionFiles.open(folder.dataDir, modelIdentity(model), backend.info.variant, folder.lock)
      : options.storage;
    if (storage) options.onRecover?.(storage.recovered);
    const engine = new Engine(model, backend, {
      ...options,
      storage,
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
