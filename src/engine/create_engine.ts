import type { TransferState } from "../hub/transfer_meter.ts";
import { modelIdentity } from "../model/model_folder.ts";
import { FolderLock } from "../session/folder_lock.ts";
import { type RecoveredSessions, SessionFiles } from "../session/session_files.ts";
import type { Engine } from "./engine.ts";
import { openModel } from "./open_model.ts";
import { startEngine, type StartEngineOptions } from "./start_engine.ts";

/** Options of {@linkcode createEngine}. */
export interface CreateEngineOptions extends StartEngineOptions {
  /**
   * A folder under `models/`, a path to a model folder, or `owner/name[@revision]` of a hub, which is pulled into
   * huggingface_hub's cache if it is not there. @default the bundled model
   */
  model?: string;
  /** Folder to keep sessions in, across restarts. One process at a time. @default none: they are in memory only */
  dataDir?: string;
  /** Called with what was found in `dataDir`. */
  onRecover?: (recovered: RecoveredSessions) => void;
  /** Called while a model is being pulled. */
  onTransfer?: (state: TransferState) => void;
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
  return await startEngine(model, options, {
    openStorage: folder && (async (variant) => {
      const storage = await SessionFiles.open(folder.dataDir, modelIdentity(model), variant, folder.lock);
      options.onRecover?.(storage.recovered);
      return storage;
    }),
  });
}
