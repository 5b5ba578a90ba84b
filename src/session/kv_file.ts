import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { z } from "zod";
import { replaceFile } from "./durable_file.ts";

/*
 * Parked KV on disk: "HEARTHK2" | u32 length of the header, little-endian | header, JSON | the bytes of `exportKv`.
 * A cache: whatever does not fit is thrown away.
 */

const MAGIC = new TextEncoder().encode("HEARTHK2");
const MAX_HEADER_BYTES = 4096;

const headerSchema = z.object({
  /** Arithmetic that made it. */
  variant: z.string(),
  tokens: z.int().positive(),
  byteLength: z.int().min(0),
  /** Of the bytes, see `kv_checksum.ts`. */
  checksum: z.int(),
  /** Of the token ids, see {@linkcode hashIds}. */
  idsSha256: z.string(),
});

export type KvFileHeader = z.infer<typeof headerSchema>;

/** SHA-256 of token ids, in hex. */
export const hashIds = (ids: readonly number[]): string =>
  createHash("sha256").update(new Uint8Array(Int32Array.from(ids).buffer)).digest("hex");

/** Writes parked KV in one step, but waits for no disk: what a power failure takes fails its checksum. */
export async function writeKvFile(path: string, header: KvFileHeader, data: Uint8Array): Promise<void> {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, json.length, true);
  await replaceFile(path, [MAGIC, length, json, data], { sync: false });
}

/** The header, if the file is what it should be and as long as it says. */
export async function readKvHeader(path: string): Promise<KvFileHeader | undefined> {
  const file = await open(path, "r");
  try {
    return (await readStart(file))?.header;
  } finally {
    await file.close();
  }
}

/** Reads parked KV. @throws {RangeError} when the file is not what it should be */
export async function readKvFile(path: string): Promise<{ header: KvFileHeader; data: Uint8Array }> {
  const file = await open(path, "r");
  try {
    const start = await readStart(file);
    if (!start) throw new RangeError("Cannot read parked KV: the file is none");
    // Straight to where it stays: there may be a hundred megabytes.
    const data = new Uint8Array(start.header.byteLength);
    for (let done = 0; done < data.length;) {
      const { bytesRead } = await file.read(data, done, data.length - done, start.dataAt + done);
      if (bytesRead === 0) throw new RangeError("Cannot read parked KV: the file has become shorter");
      done += bytesRead;
    }
    return { header: start.header, data };
  } finally {
    await file.close();
  }
}

/** What stands before the bytes, if the file is what it should be and as long as it says. */
async function readStart(file: FileHandle): Promise<ReturnType<typeof parse>> {
  const start = new Uint8Array(MAGIC.length + 4 + MAX_HEADER_BYTES);
  const { bytesRead } = await file.read(start, 0, start.length, 0);
  const parsed = parse(start.subarray(0, bytesRead));
  const { size } = await file.stat();
  return parsed && parsed.dataAt + parsed.header.byteLength === size ? parsed : undefined;
}

function parse(bytes: Uint8Array): { header: KvFileHeader; dataAt: number } | undefined {
  const jsonAt = MAGIC.length + 4;
  if (bytes.length < jsonAt || MAGIC.some((byte, i) => bytes[i] !== byte)) return undefined;
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(MAGIC.length, true);
  if (length > MAX_HEADER_BYTES || jsonAt + length > bytes.length) return undefined;
  try {
    const json = JSON.parse(new TextDecoder().decode(bytes.subarray(jsonAt, jsonAt + length)));
    return { header: headerSchema.parse(json), dataAt: jsonAt + length };
  } catch {
    return undefined;
  }
}
