import { createHash } from "node:crypto";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";

const SAMPLE_BYTES = 64 * 1024;
const WEIGHTS = /\.onnx$|\.onnx[._]data(_\d+)?$|\.data$/;

/** SHA-256 of a text in UTF-8, in hex. */
export const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/**
 * Tells models apart without reading gigabytes: SHA-256 over the configuration and, for each file of weights in name
 * order, its name, size, first and last 64 KiB.
 */
export async function hashModel(folder: string, config: string): Promise<string> {
  const hash = createHash("sha256").update(config);
  const names = (await readdir(folder, { recursive: true })).filter((name) => WEIGHTS.test(name)).sort();
  for (const name of names) {
    const file = await open(join(folder, name), "r");
    try {
      const { size } = await file.stat();
      hash.update(`\n${name} ${size}\n`);
      for (const at of [0, Math.max(0, size - SAMPLE_BYTES)]) {
        const sample = new Uint8Array(Math.min(SAMPLE_BYTES, size));
        const { bytesRead } = await file.read(sample, 0, sample.length, at);
        hash.update(sample.subarray(0, bytesRead));
      }
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex");
}
