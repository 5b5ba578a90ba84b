import { createHash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { crc32 } from "node:zlib";
import { z } from "zod";
import { KV_PART_BYTES, type KvParts } from "../kv/kv_parts.ts";
import { replaceFile } from "./durable_file.ts";

/*
 * Parked KV on disk: "HEARTHK2" | u32 length of the header, little-endian | header, JSON | the bytes of `exportKv` |
 * u32 CRC-32 of these bytes, little-endian. A cache: whatever does not fit is thrown away. CRC-32 finds what flipped or
 * was cut thirty times as fast as SHA-256 would; who can write our files could replace either.
 */

const MAGIC = new TextEncoder().encode("HEARTHK2");
const MAX_HEADER_BYTES = 4096;
const CHECKSUM_BYTES = 4;

const headerSchema = z.object({
  /** Arithmetic that made it. */
  variant: z.string(),
  tokens: z.int().positive(),
  /** Of the token ids, see {@linkcode hashIds}. */
  idsSha256: z.string(),
});

export type KvFileHeader = z.infer<typeof headerSchema>;

/** A file of parked KV as it lies there, its bytes not looked at. */
export interface KvFile {
  header: KvFileHeader;
  /** Of the KV. */
  byteLength: number;
}

/** SHA-256 of token ids, in hex. */
export const hashIds = (ids: readonly number[]): string =>
  createHash("sha256").update(new Uint8Array(Int32Array.from(ids).buffer)).digest("hex");

/**
 * Writes parked KV in one step, but waits for no disk: what a power failure takes fails its checksum.
 * @returns bytes of the KV
 */
export async function writeKvFile(path: string, header: KvFileHeader, parts: KvParts): Promise<number> {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = u32(json.length);
  let byteLength = 0;
  async function* all(): AsyncGenerator<Uint8Array> {
    yield* [MAGIC, length, json];
    let checksum = 0;
    for await (const part of parts) {
      checksum = crc32(part, checksum);
      byteLength += part.length;
      yield part;
    }
    yield u32(checksum);
  }
  await replaceFile(path, all(), { sync: false });
  return byteLength;
}

/** What the file says it is, if it is one. */
export async function readKvHeader(path: string): Promise<KvFile | undefined> {
  const file = await open(path, "r");
  try {
    return await readStart(file);
  } finally {
    await file.close();
  }
}

/**
 * Reads parked KV part by part, each into the same memory.
 * @param wanted whether the file is the one that was meant
 * @throws {RangeError} when the file is not what it should be, in the end too: its checksum comes last
 */
export async function* readKvFile(path: string, wanted: (header: KvFileHeader) => boolean): AsyncGenerator<Uint8Array> {
  const file = await open(path, "r");
  try {
    const start = await readStart(file);
    if (!start || !wanted(start.header)) throw new RangeError("Cannot read parked KV: the file is none, or another's");
    const { dataAt, byteLength } = start;
    const buffer = new Uint8Array(Math.min(KV_PART_BYTES, byteLength));
    let checksum = 0;
    for (let done = 0; done < byteLength;) {
      const part = buffer.subarray(0, byteLength - done);
      await readFully(file, part, dataAt + done);
      checksum = crc32(part, checksum);
      done += part.length;
      yield part;
    }
    const stored = new Uint8Array(CHECKSUM_BYTES);
    await readFully(file, stored, dataAt + byteLength);
    if (readU32(stored) !== checksum) throw new RangeError("Cannot read parked KV: its bytes have changed");
  } finally {
    await file.close();
  }
}

async function readFully(file: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  for (let done = 0; done < bytes.length;) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, at + done);
    if (bytesRead === 0) throw new RangeError("Cannot read parked KV: the file has become shorter");
    done += bytesRead;
  }
}

/** What stands before the bytes, if the file is what it should be. */
async function readStart(file: FileHandle): Promise<(KvFile & { dataAt: number }) | undefined> {
  const start = new Uint8Array(MAGIC.length + 4 + MAX_HEADER_BYTES);
  const { bytesRead } = await file.read(start, 0, start.length, 0);
  const parsed = parse(start.subarray(0, bytesRead));
  const { size } = await file.stat();
  const byteLength = size - CHECKSUM_BYTES - (parsed?.dataAt ?? 0);
  return parsed && byteLength > 0 ? { ...parsed, byteLength } : undefined;
}

function parse(bytes: Uint8Array): { header: KvFileHeader; dataAt: number } | undefined {
  const jsonAt = MAGIC.length + 4;
  if (bytes.length < jsonAt || MAGIC.some((byte, i) => bytes[i] !== byte)) return undefined;
  const length = readU32(bytes.subarray(MAGIC.length));
  if (length > MAX_HEADER_BYTES || jsonAt + length > bytes.length) return undefined;
  try {
    const json = JSON.parse(new TextDecoder().decode(bytes.subarray(jsonAt, jsonAt + length)));
    return { header: headerSchema.parse(json), dataAt: jsonAt + length };
  } catch {
    return undefined;
  }
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

const readU32 = ({ buffer, byteOffset }: Uint8Array): number => new DataView(buffer, byteOffset).getUint32(0, true);
