import { join } from "node:path";
import type { FloatType } from "../model/onnx_file.ts";
import { CacheLayout, sizeOf } from "./cache_layout.ts";
import { chooseFiles } from "./choose_files.ts";
import { downloadBlob } from "./download_blob.ts";
import { freeDiskBytes, requireDisk } from "./free_disk.ts";
import { hubFetch } from "./hub_fetch.ts";
import type { HubSettings } from "./hub_settings.ts";
import { type ListOptions, listRepoFiles, type RemoteFile } from "./repo_files.ts";
import type { RepoName } from "./repo_name.ts";
import { TransferMeter, type TransferState } from "./transfer_meter.ts";

/** Options of {@linkcode pullModel}. */
export interface PullOptions extends ListOptions {
  /** Which graph: see {@linkcode chooseFiles}. */
  variant?: string;
  /** What the model is to be run in; decides where no variant was asked for. @default "f32" */
  floats?: FloatType;
  /** Called when bytes came. */
  onTransfer?: (state: TransferState) => void;
  /** Bytes that may be written below a folder. @default asks the file system */
  freeBytes?: (folder: string) => Promise<number>;
}

/** A model in the cache. */
export interface PulledModel {
  /** The model folder. */
  path: string;
  /** `owner/name`. */
  name: string;
  commit: string;
  variant: string;
  /** Bytes of its files, and how many of them had to be fetched. */
  bytes: number;
  fetchedBytes: number;
}

/**
 * Fetches what the cache does not have of a model, and makes its snapshot. Stopped at any time, it goes on from there
 * when called again.
 * @throws {DownloadError} when the hub refuses, the disk is too small, or what comes is not what was announced
 */
export async function pullModel(
  repo: RepoName,
  settings: HubSettings,
  options: PullOptions = {},
): Promise<PulledModel> {
  const { name, revision } = repo;
  const fetch = hubFetch(settings, options);
  const { commit, files: all } = await listRepoFiles(repo, settings, options);
  const { folder, variant, files } = chooseFiles(name, all, options.variant, options.floats);
  const cache = new CacheLayout(settings.cacheDir, name);
  const missing = await missingBlobs(cache, files);
  const wanted = missing.reduce((sum, { file, there }) => sum + file.size - there, 0);
  requireDisk(wanted, await (options.freeBytes ?? freeDiskBytes)(settings.cacheDir), settings.cacheDir);

  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  const meter = new TransferMeter(bytes);
  meter.had(bytes - missing.reduce((sum, { file }) => sum + file.size, 0));
  for (const { file, there } of missing) {
    meter.file = file.path;
    let before = there;
    await downloadBlob(file, cache, {
      ...options,
      fetch,
      url: `${settings.endpoint}/${name}/resolve/${commit}/${file.path.split("/").map(encodeURIComponent).join("/")}`,
      onBytes: (count) => {
        // The first are those that an earlier pull has left.
        if (before > 0) meter.had(count);
        else meter.came(count);
        before = 0;
        options.onTransfer?.(meter.state());
      },
    });
  }
  for (const { path, id } of files) await cache.link(commit, path, id);
  const before = await cache.manifest(commit);
  const others = before?.files.filter(({ path }) => !files.some((file) => file.path === path)) ?? [];
  await cache.setManifest(commit, { folder, variant, files: [...others, ...files] });
  await cache.setRef(revision, commit);
  return { path: join(cache.snapshot(commit), folder), name, commit, variant, bytes, fetchedBytes: wanted };
}

/** Files whose blobs are not there, each once, with the bytes that an earlier pull has left. */
async function missingBlobs(cache: CacheLayout, files: readonly RemoteFile[]) {
  const missing = new Map<string, { file: RemoteFile; there: number }>();
  for (const file of files) {
    if (await sizeOf(cache.blob(file.id)) === file.size) continue;
    const there = await sizeOf(cache.partial(file.id)) ?? 0;
    missing.set(file.id, { file, there: there <= file.size ? there : 0 });
  }
  return [...missing.values()];
}
