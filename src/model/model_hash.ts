import { fileSize, join, readPart } from "../host/files.ts";
import { sha256 } from "./sha256.ts";

const SAMPLE_BYTES = 64 * 1024;

/** SHA-256 of a text in UTF-8, in hex. */
export const hashText = (text: string): Promise<string> => sha256(new TextEncoder().encode(text));

/**
 * Tells models apart without reading gigabytes: SHA-256 over the configuration and, for each file of weights in the order
 * of their names, its name, size, first and last 64 KiB.
 * @param names of the files of weights, relative to `folder`
 */
export async function hashModel(folder: string, config: string, names: readonly string[]): Promise<string> {
  const parts: BlobPart[] = [config];
  for (const name of names.toSorted()) {
    const path = join(folder, name);
    const size = await fileSize(path) ?? 0;
    parts.push(`\n${name} ${size}\n`);
    for (const at of [0, Math.max(0, size - SAMPLE_BYTES)]) {
      if (size > 0) parts.push(await readPart(path, at, Math.min(SAMPLE_BYTES, size)));
    }
  }
  return await sha256(new Uint8Array(await new Blob(parts).arrayBuffer()));
}
