import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname } from "node:path";

/** Only its owner may read or write it. */
export const PRIVATE_FILE = 0o600;
/** Only its owner may look into it. */
export const PRIVATE_FOLDER = 0o700;

/**
 * Makes or replaces a file in one step: who opens it sees the old bytes or the new, whenever the process ends, and with
 * `sync`, the default, whenever the power fails.
 */
export async function replaceFile(
  path: string,
  parts: AsyncIterable<Uint8Array> | readonly Uint8Array[],
  { sync = true } = {},
): Promise<void> {
  const beside = `${path}.new`;
  try {
    await withFile(beside, "w", async (file) => {
      let at = 0;
      for await (const part of parts) at += await writeAll(file, part, at);
      if (sync) await file.sync();
    });
    await rename(beside, path);
  } catch (error) {
    await unlink(beside).catch(() => {});
    throw error;
  }
  if (sync) await syncFolder(dirname(path));
}

/**
 * Writes at the end of a file of `size` bytes, and waits until the bytes are on disk. When that fails, the file is
 * `size` bytes long again, as far as the disk lets it.
 */
export async function appendToFile(path: string, size: number, bytes: Uint8Array): Promise<void> {
  await withFile(path, "r+", async (file) => {
    try {
      // A write that failed may have left a part.
      if ((await file.stat()).size !== size) await file.truncate(size);
      await writeAll(file, bytes, size);
      await file.sync();
    } catch (error) {
      await file.truncate(size).catch(() => {});
      throw error;
    }
  });
}

/** Cuts a file to `size` bytes, on disk. */
export async function cutFile(path: string, size: number): Promise<void> {
  await withFile(path, "r+", async (file) => {
    await file.truncate(size);
    await file.sync();
  });
}

/** Removes files for good. @returns whether one was there */
export async function removeFiles(...paths: readonly string[]): Promise<boolean> {
  let removed = false;
  for (const path of paths) {
    try {
      await unlink(path);
      removed = true;
    } catch (error) {
      if ((error as { code?: string }).code !== "ENOENT") throw error;
    }
  }
  if (removed) await syncFolder(dirname(paths[0]!));
  return removed;
}

/** Waits until a folder's entries are on disk. */
export async function syncFolder(path: string): Promise<void> {
  await withFile(path, "r", (folder) => folder.sync());
}

async function withFile<T>(path: string, flags: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path, flags, PRIVATE_FILE);
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

/** One `write` as a rule; more where the system takes less at once. */
async function writeAll(file: FileHandle, bytes: Uint8Array, at: number): Promise<number> {
  for (let done = 0; done < bytes.length;) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
  return bytes.length;
}
