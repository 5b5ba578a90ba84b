/** The files of a model over HTTP: in a page's bundle this takes the place of `host/files.ts`, whose paths are URLs here. */
import { ModelFileError } from "../../errors.ts";
import type { OpenFile } from "../../host/files.ts";
import { fetchPart, readPartNow } from "./http_ranges.ts";

export type { OpenFile };
export { basename, dirname, insideFolder, isAbsolute, join, realPath, resolve, sep } from "./urls.ts";

/** Small reads are served from so much, asked for at once. */
const WINDOW_BYTES = 2 ** 20;
/** Weights, scales and zero points of a matrix are read by turns. */
const WINDOWS = 4;
/** What is asked for at a time at most. */
const CHUNK_BYTES = 4 * 2 ** 20;

/** Threads only. */
export function openFile(path: string): OpenFile {
  return new HttpFile(path);
}

/** Threads only. */
export const isFile = (path: string): boolean => readPartNow(path, 0, 1) !== undefined;

export async function readText(path: string): Promise<string | undefined> {
  const response = await fetch(path);
  if (response.ok) return await response.text();
  if (response.status === 404 || response.status === 410) return undefined;
  throw new Error(`the server answers ${response.status}`);
}

export const fileSize = async (path: string): Promise<number | undefined> => (await fetchPart(path, 0, 1))?.size;

export async function readPart(path: string, at: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
  return required(path, await fetchPart(path, at, length)).bytes;
}

/** HTTP has no lists. */
export const listFiles = (_folder: string): Promise<undefined> => Promise.resolve(undefined);

class HttpFile implements OpenFile {
  readonly size: number;
  readonly #url: string;
  /** Parts that were read last, the latest first. */
  readonly #windows: { start: number; bytes: Uint8Array }[] = [];

  constructor(url: string) {
    this.#url = url;
    this.size = required(url, readPartNow(url, 0, 1)).size;
  }

  read(at: number, into: Uint8Array): number {
    const length = Math.min(into.length, this.size - at, CHUNK_BYTES);
    if (length <= 0) return 0;
    if (length >= WINDOW_BYTES) {
      into.set(this.#ask(at, length));
      return length;
    }
    const { start, bytes } = this.#window(at);
    const part = bytes.subarray(at - start, at - start + length);
    into.set(part);
    return part.length;
  }

  #window(at: number): { start: number; bytes: Uint8Array } {
    const known = this.#windows.findIndex(({ start, bytes }) => at >= start && at < start + bytes.length);
    const window = known >= 0
      ? this.#windows.splice(known, 1)[0]!
      : { start: at, bytes: this.#ask(at, Math.min(WINDOW_BYTES, this.size - at)) };
    this.#windows.unshift(window);
    this.#windows.length = Math.min(this.#windows.length, WINDOWS);
    return window;
  }

  #ask(at: number, length: number): Uint8Array {
    const { bytes, size } = required(this.#url, readPartNow(this.#url, at, length));
    if (size !== this.size) {
      throw new ModelFileError(`Cannot read ${this.#url}: it has ${size} bytes now, wanted ${this.size}`);
    }
    return bytes;
  }

  [Symbol.dispose](): void {
    this.#windows.length = 0;
  }
}

function required<T>(url: string, found: T | undefined): T {
  if (found === undefined) throw new ModelFileError(`Cannot read ${url}: no such file`);
  return found;
}
