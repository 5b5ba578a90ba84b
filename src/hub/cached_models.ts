import { readdir, readlink, realpath, rm } from "node:fs/promises";
import { basename, join, relative } from "node:path";
import { InvalidRequestError } from "../errors.ts";
import { blobHash, hashFile } from "./blob_hash.ts";
import { CacheLayout, COMMIT, isThere, sizeOf } from "./cache_layout.ts";

/** A model of the cache: what Hearth pulled, and what others put there. */
export interface CachedModel {
  /** `owner/name`. */
  name: string;
  /** Bytes of its blobs, and of those that are not whole. */
  bytes: number;
  partialBytes: number;
  snapshots: CachedSnapshot[];
}

/** One commit of a model. */
export interface CachedSnapshot {
  commit: string;
  /** Branches and tags that were this commit. */
  refs: string[];
  files: number;
  /** What was pulled last; `undefined` when others did. */
  variant: string | undefined;
}

/** A file that is not what it should be. */
export interface BadFile {
  commit: string;
  path: string;
  reason: string;
}

/** All models in the cache, by name. A cache that is not there is empty. */
export async function listModels(cacheDir: string): Promise<CachedModel[]> {
  const names = (await namesIn(cacheDir)).filter((name) => name.startsWith("models--")).sort();
  return await Promise.all(names.map((name) => readModel(cacheDir, name.slice(8).replace("--", "/"))));
}

async function readModel(cacheDir: string, name: string): Promise<CachedModel> {
  const cache = new CacheLayout(cacheDir, name);
  const refs = await filesBelow(join(cache.root, "refs"));
  const commits = await Promise.all(refs.map(async (ref) => [ref, await cache.commitOf(ref)] as const));
  const snapshots = (await namesIn(join(cache.root, "snapshots"))).filter((commit) => COMMIT.test(commit));
  const blobs = await namesIn(join(cache.root, "blobs"));
  const sizes = await Promise.all(blobs.map(async (id) => [id, await sizeOf(cache.blob(id)) ?? 0] as const));
  const sum = (partial: boolean) =>
    sizes.filter(([id]) => !id.endsWith(".lock")).reduce(
      (all, [id, size]) => all + (id.endsWith(".incomplete") === partial ? size : 0),
      0,
    );
  return {
    name,
    bytes: sum(false),
    partialBytes: sum(true),
    snapshots: await Promise.all(snapshots.map(async (commit) => ({
      commit,
      refs: commits.filter(([, at]) => at === commit).map(([ref]) => ref),
      files: (await filesBelow(cache.snapshot(commit))).length,
      variant: (await cache.manifest(commit))?.variant,
    }))),
  };
}

/** Checks every file of a model against the hash it is named by, and that none is missing. */
export async function verifyModel(cacheDir: string, name: string): Promise<{ files: number; bad: BadFile[] }> {
  const cache = await existing(cacheDir, name);
  const bad: BadFile[] = [];
  const checked = new Map<string, string | undefined>();
  let files = 0;
  for (const commit of (await namesIn(join(cache.root, "snapshots"))).filter((commit) => COMMIT.test(commit))) {
    const manifest = await cache.manifest(commit);
    const ids = new Map(manifest?.files.map(({ path, id }) => [path, id]));
    for (const path of new Set([...ids.keys(), ...await filesBelow(cache.snapshot(commit))])) {
      files++;
      const at = join(cache.snapshot(commit), path);
      const id = ids.get(path) ?? basename(await readlink(at).catch(() => ""));
      // Snapshots share blobs.
      const key = `${id} ${await realpath(at).catch(() => at)}`;
      if (!checked.has(key)) checked.set(key, await whatIsWrong(at, id));
      const reason = checked.get(key);
      if (reason) bad.push({ commit, path, reason });
    }
  }
  return { files, bad };
}

async function whatIsWrong(path: string, id: string): Promise<string | undefined> {
  const size = await sizeOf(path);
  if (size === undefined) return await isThere(path) ? "its blob is missing" : "it is missing";
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(id)) return "nothing says what its hash should be";
  const hash = blobHash(id, size);
  await hashFile(hash, path, size);
  const digest = hash.digest("hex");
  return digest === id ? undefined : `it is damaged: hash ${digest}, wanted ${id}`;
}

/** Deletes a model from the cache, all revisions. @returns bytes of its blobs */
export async function removeModel(cacheDir: string, name: string): Promise<number> {
  const { root } = await existing(cacheDir, name);
  const { bytes, partialBytes } = await readModel(cacheDir, name);
  await rm(root, { recursive: true });
  return bytes + partialBytes;
}

async function existing(cacheDir: string, name: string): Promise<CacheLayout> {
  const cache = new CacheLayout(cacheDir, name);
  if (await isThere(cache.root)) return cache;
  throw new InvalidRequestError(`Cannot find ${name} in ${cacheDir}: wanted one that "models list" shows`);
}

const namesIn = (folder: string): Promise<string[]> => readdir(folder).catch(() => []);

/** Paths of all files and links below a folder, relative to it, with `/`. */
async function filesBelow(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => !entry.isDirectory())
    .map(({ parentPath, name }) => relative(folder, join(parentPath, name)).replaceAll("\\", "/")).sort();
}
