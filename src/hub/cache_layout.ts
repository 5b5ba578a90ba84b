import { lstat, mkdir, readFile, readlink, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { z } from "zod";

/**
 * A model's folder in the cache that huggingface_hub shares:
 *
 *     models--owner--name/
 *       blobs/<id>                 a file's bytes, named by their hash; <id>.incomplete while they come, with a lock
 *       refs/main                  the commit that a branch was when it was asked for
 *       snapshots/<commit>/<path>  links to blobs: a model folder
 *       .hearth/<commit>.json      which files make the snapshot whole: huggingface_hub looks at the first three only
 *
 * https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
export class CacheLayout {
  /** Absolute. */
  readonly root: string;

  /** @param name `owner/name`, checked */
  constructor(cacheDir: string, name: string) {
    this.root = join(cacheDir, `models--${name.replaceAll("/", "--")}`);
  }

  blob = (id: string): string => join(this.root, "blobs", id);
  partial = (id: string): string => `${this.blob(id)}.incomplete`;
  snapshot = (commit: string): string => join(this.root, "snapshots", commit);

  /** The commit of a revision as last seen; a commit is itself. */
  async commitOf(revision: string): Promise<string | undefined> {
    if (COMMIT.test(revision)) return revision;
    const text = await readFile(join(this.root, "refs", revision), "utf8").catch(() => "");
    return COMMIT.test(text.trim()) ? text.trim() : undefined;
  }

  /** Remembers which commit a branch or tag is. */
  async setRef(revision: string, commit: string): Promise<void> {
    if (!COMMIT.test(revision)) await this.#put(join(this.root, "refs", revision), (path) => writeFile(path, commit));
  }

  /** Makes a file of a snapshot a link to its blob, a relative one: the cache can be moved. */
  async link(commit: string, path: string, id: string): Promise<void> {
    const at = join(this.snapshot(commit), path);
    const target = relative(dirname(at), this.blob(id));
    if (await readlink(at).catch(() => undefined) === target) return;
    await this.#put(at, (path) => symlink(target, path));
  }

  /** What a snapshot has to have, if it was pulled by us. */
  async manifest(commit: string): Promise<SnapshotManifest | undefined> {
    const text = await readFile(this.#manifestPath(commit), "utf8").catch(() => undefined);
    if (text === undefined) return undefined;
    try {
      return manifestSchema.parse(JSON.parse(text));
    } catch {
      // Cut short by a crash, or of another version: the hub is asked again.
      return undefined;
    }
  }

  setManifest(commit: string, manifest: SnapshotManifest): Promise<void> {
    return this.#put(this.#manifestPath(commit), (path) => writeFile(path, JSON.stringify(manifest)));
  }

  /** Whether every file is there with its size. Contents are `verify`'s. */
  async isWhole(commit: string, { files }: SnapshotManifest): Promise<boolean> {
    for (const { path, size } of files) {
      if (await sizeOf(join(this.snapshot(commit), path)) !== size) return false;
    }
    return true;
  }

  /**
   * Makes a file elsewhere and renames it, so that nobody sees half of it, and two that make the same one at once both
   * can. The name is nobody else's: a process id is not, in containers all are 1.
   */
  async #put(at: string, make: (path: string) => Promise<void>): Promise<void> {
    const beside = join(this.root, ".hearth", `${crypto.randomUUID()}.new`);
    for (const path of [beside, at]) await mkdir(dirname(path), { recursive: true });
    try {
      await make(beside);
      await rename(beside, at);
    } catch (error) {
      await rm(beside, { force: true });
      throw error;
    }
  }

  #manifestPath = (commit: string): string => join(this.root, ".hearth", `${commit}.json`);
}

/** Which files a pull has put into a snapshot. */
export interface SnapshotManifest {
  /** The model folder, relative to the snapshot; `""` is the snapshot. */
  folder: string;
  variant: string;
  files: { path: string; size: number; id: string }[];
}

const manifestSchema: z.ZodType<SnapshotManifest> = z.object({
  folder: z.string(),
  variant: z.string(),
  files: z.array(z.object({ path: z.string(), size: z.int().nonnegative(), id: z.string() })),
});

/** A full commit id. */
export const COMMIT = /^[0-9a-f]{40}$/;

/** Bytes of the file at a path, links followed; `undefined` when there is none. */
export async function sizeOf(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : undefined;
}

/** Whether there is anything at a path, a dangling link included. */
export const isThere = (path: string): Promise<boolean> => lstat(path).then(() => true, () => false);
