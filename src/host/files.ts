/**
 * The files of a model. In a page `runtime/browser/files.ts` takes the place of this module, and paths are URLs: there
 * what returns at once can be called from threads only, and what returns a promise is for the page.
 */
import { closeSync, fstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { open, readdir, readFile, stat } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";

export { basename, dirname, isAbsolute, join, resolve, sep } from "node:path";

/** A file that is read in parts. */
export interface OpenFile extends Disposable {
  /** Bytes. */
  readonly size: number;
  /**
   * Reads from byte `at` on into `into`, which may lie in shared memory.
   * @returns how many bytes were read: fewer than there is room for, perhaps, and 0 at the end of the file only
   */
  read(at: number, into: Uint8Array): number;
}

/** @throws when it cannot be opened, with why */
export function openFile(path: string): OpenFile {
  // Not opened first: a pipe would wait for who writes to it.
  if (!statSync(path).isFile()) throw new Error(`${path} is no file`);
  const file = openSync(path, "r");
  return {
    size: fstatSync(file).size,
    read: (at, into) => readSync(file, into, 0, into.length, at),
    [Symbol.dispose]: () => closeSync(file),
  };
}

/** Whether there is such a file. */
export function isFile(path: string): boolean {
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** Where a path leads once links are followed. */
export const realPath = (path: string): string => realpathSync(path);

/** Whether `path` is below `folder`, by name: links are not followed. */
export function insideFolder(folder: string, path: string): boolean {
  const way = relative(folder, path);
  return way !== "" && !way.startsWith("..") && !isAbsolute(way);
}

/** The text of a small file; `undefined` where there is none. @throws when it cannot be read */
export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as { code?: string }).code === "ENOENT") return undefined;
    throw error;
  }
}

/** A file's size in bytes; `undefined` where there is none. */
export async function fileSize(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found?.isFile() ? found.size : undefined;
}

/** `length` bytes from byte `at` on, or those until the end of the file. */
export async function readPart(path: string, at: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  const file = await open(path, "r");
  try {
    const bytes = new Uint8Array(length);
    const { bytesRead } = await file.read(bytes, 0, length, at);
    return bytes.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/**
 * Files in a folder and below, as paths relative to it; `undefined` where nobody can tell, as over HTTP. Links are not
 * followed, as Bun's own recursive listing does: they may lead out, or round in circles.
 */
export async function listFiles(folder: string): Promise<string[] | undefined> {
  const entries = await readdir(folder, { withFileTypes: true });
  const names = entries.map(async (entry) => {
    if (!entry.isDirectory()) return [entry.name];
    return (await listFiles(join(folder, entry.name)))!.map((name) => join(entry.name, name));
  });
  return (await Promise.all(names)).flat();
}
