import { createHash, type Hash } from "node:crypto";
import { createReadStream } from "node:fs";

/**
 * The hash that a blob's id is, to be fed its bytes: SHA-256 for an id of 64 digits, git's for one of 40.
 * @param size bytes of the whole blob, which git hashes too
 * https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
 */
export function blobHash(id: string, size: number): Hash {
  return id.length === 64 ? createHash("sha256") : createHash("sha1").update(`blob ${size}\0`);
}

/** Feeds a file's first `bytes` to a hash. */
export async function hashFile(hash: Hash, path: string, bytes: number, signal?: AbortSignal): Promise<void> {
  if (bytes === 0) return;
  for await (const chunk of createReadStream(path, { end: bytes - 1, highWaterMark: 2 ** 20, signal })) {
    hash.update(chunk);
  }
}
