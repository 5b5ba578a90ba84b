import { closeSync, mkdirSync, openSync, writeSync } from "node:fs";
import { dirname, join } from "node:path";

/** Where parts of files go. Parts come in ascending order of offset; what lies between them is zero. */
export interface FileStore {
  /** `bytes` belong to the caller again as soon as this returns, unless the store says otherwise. */
  write(name: string, offset: number, bytes: Uint8Array): void;
}

/** Keeps files in memory. Parts are kept as they are until {@linkcode MemoryStore.files}: do not change them. */
export class MemoryStore implements FileStore {
  #files = new Map<string, { offset: number; bytes: Uint8Array }[]>();

  write(name: string, offset: number, bytes: Uint8Array): void {
    const parts = this.#files.get(name);
    if (parts === undefined) this.#files.set(name, [{ offset, bytes }]);
    else parts.push({ offset, bytes });
  }

  /** The finished files, by name, in the order in which they were begun. */
  files(): Map<string, Uint8Array> {
    return new Map([...this.#files].map(([name, parts]) => {
      const last = parts[parts.length - 1]!;
      const file = new Uint8Array(last.offset + last.bytes.length);
      for (const { offset, bytes } of parts) file.set(bytes, offset);
      return [name, file];
    }));
  }
}

/** Writes files below a folder, each part at once. Owns the open files until it is disposed. */
export class DiskStore implements FileStore, Disposable {
  #open = new Map<string, number>();
  #sizes = new Map<string, number>();

  constructor(readonly folder: string) {}

  write(name: string, offset: number, bytes: Uint8Array): void {
    const file = this.#file(name);
    for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at, bytes.length - at, offset + at);
    this.#sizes.set(name, offset + bytes.length);
  }

  /** Bytes of each file so far, by name. */
  sizes(): ReadonlyMap<string, number> {
    return this.#sizes;
  }

  [Symbol.dispose](): void {
    for (const file of this.#open.values()) closeSync(file);
    this.#open.clear();
  }

  #file(name: string): number {
    const known = this.#open.get(name);
    if (known !== undefined) return known;
    const path = join(this.folder, name);
    mkdirSync(dirname(path), { recursive: true });
    const file = openSync(path, "w");
    this.#open.set(name, file);
    return file;
  }
}
