/** Bytes of files over HTTP. Servers have to take `Range`: https://www.rfc-editor.org/rfc/rfc9110#section-14 */
import { ModelFileError } from "../../errors.ts";

/** A part of a file. */
export interface Part {
  bytes: Uint8Array<ArrayBuffer>;
  /** Of the whole file, in bytes. */
  size: number;
}

/** Answers of servers that have no such file; some storages say 403. */
const MISSING: ReadonlySet<number> = new Set([403, 404, 410]);

const rangeOf = (at: number, length: number) => `bytes=${at}-${at + length - 1}`;

/**
 * `length` bytes from byte `at` on, or those until the end; `undefined` where there is no such file.
 * @throws {ModelFileError} when the server cannot be reached, or does not answer with that part
 */
export async function fetchPart(url: string, at: number, length: number): Promise<Part | undefined> {
  // Ended when the headers say that the whole file would come.
  const abort = new AbortController();
  try {
    const response = await fetch(url, { headers: { Range: rangeOf(at, length) }, signal: abort.signal });
    if (MISSING.has(response.status)) return undefined;
    const size = sizeOf(url, response.status, response.headers.get("Content-Range"));
    return part(url, new Uint8Array(await response.arrayBuffer()), size, at, length);
  } catch (cause) {
    throw cause instanceof ModelFileError ? cause : refused(url, (cause as Error).message, cause);
  } finally {
    abort.abort();
  }
}

/** As {@linkcode fetchPart}, at once: for threads, a page may not wait so. */
export function readPartNow(url: string, at: number, length: number): Part | undefined {
  const request = new XMLHttpRequest();
  request.open("GET", url, false);
  request.responseType = "arraybuffer";
  request.setRequestHeader("Range", rangeOf(at, length));
  try {
    request.send();
  } catch (cause) {
    throw refused(url, (cause as Error).message, cause);
  }
  if (MISSING.has(request.status)) return undefined;
  const size = sizeOf(url, request.status, request.getResponseHeader("Content-Range"));
  return part(url, new Uint8Array(request.response as ArrayBuffer), size, at, length);
}

function sizeOf(url: string, status: number, contentRange: string | null): number {
  if (status === 200) throw refused(url, "the server sends all of it, wanted a part as Range asks for");
  if (status !== 206) throw refused(url, `the server answers ${status}, wanted 206`);
  const size = /^bytes \d+-\d+\/(\d+)$/.exec(contentRange ?? "")?.[1];
  if (size !== undefined) return Number(size);
  throw refused(url, `its Content-Range is "${contentRange ?? ""}", wanted a size; another origin has to expose it`);
}

function part(url: string, bytes: Uint8Array<ArrayBuffer>, size: number, at: number, length: number): Part {
  const wanted = Math.min(length, size - at);
  if (bytes.length === wanted) return { bytes, size };
  throw refused(url, `the server sends ${bytes.length} bytes from ${at} on, wanted ${wanted}`);
}

const refused = (url: string, why: string, cause?: unknown) =>
  new ModelFileError(`Cannot read ${url}: ${why}`, { cause });
