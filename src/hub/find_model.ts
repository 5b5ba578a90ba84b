import { join } from "node:path";
import { CacheLayout } from "./cache_layout.ts";
import { type HubSettings, readHubSettings } from "./hub_settings.ts";
import { pullModel, type PullOptions } from "./pull_model.ts";
import { parseRepoName } from "./repo_name.ts";

/** A model folder, and what to call it. */
export interface FoundModel {
  path: string;
  /** `owner/name`. */
  name: string;
}

/**
 * The folder of `owner/name[@revision]`: from the cache if all of it is there, without asking the hub whether a branch
 * has moved on since (`models pull` does); else it is pulled.
 * @throws {InvalidRequestError} when that is no name
 * @throws {DownloadError} when it is not in the cache and cannot be pulled
 */
export async function findHubModel(
  text: string,
  options: PullOptions = {},
  settings: HubSettings = readHubSettings(),
): Promise<FoundModel> {
  const repo = parseRepoName(text);
  const cache = new CacheLayout(settings.cacheDir, repo.name);
  const commit = await cache.commitOf(repo.revision);
  const manifest = commit && await cache.manifest(commit);
  if (manifest && await cache.isWhole(commit, manifest)) {
    return { path: join(cache.snapshot(commit), manifest.folder), name: repo.name };
  }
  return await pullModel(repo, settings, options);
}
