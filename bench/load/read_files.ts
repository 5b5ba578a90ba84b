import { closeSync, openSync, readdirSync, readSync } from "node:fs";
import { join } from "node:path";

/** Reads every model file of a folder in steps of 4 MiB, as the loader does, and does nothing with it. */
export function readFiles(folder: string): { ms: number; bytes: number } {
  const buffer = new Uint8Array(4 * 2 ** 20);
  const startedAt = performance.now();
  let bytes = 0;
  for (const name of readdirSync(folder).filter((name) => /\.onnx/.test(name))) {
    const file = openSync(join(folder, name), "r");
    for (let read; (read = readSync(file, buffer)) > 0;) bytes += read;
    closeSync(file);
  }
  return { ms: performance.now() - startedAt, bytes };
}
