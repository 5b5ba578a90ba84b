import { z } from "zod";
import { CapsuleError } from "../errors.ts";
import { sha256 } from "../model/sha256.ts";
import { modelIdentitySchema } from "./stored_schema.ts";

/*
 * A capsule, integers little-endian:
 *
 *   "HEARTHC" | u8 format | u32 length of the header | header, JSON | blocks | SHA-256 of all before
 *
 * The header is in the clear and has a length and checksum a block; blocks follow one another, the transcript's before
 * the KV's. A sealed block is AES-GCM's ciphertext and tag.
 */

/** Format that this version writes and reads. */
export const CAPSULE_FORMAT = 1;
/** Bytes of KV in a block, before sealing. */
export const BLOCK_BYTES = 2 ** 20;

const MAGIC = new TextEncoder().encode("HEARTHC");
const HEADER_AT = MAGIC.length + 1 + 4;
const HASH_BYTES = 32;
const MAX_HEADER_BYTES = 2 ** 20;

const hex = z.string().regex(/^[0-9a-f]*$/);
const count = z.int().min(0);

const blockSchema = z.object({
  kind: z.enum(["transcript", "kv"]),
  byteLength: count,
  /** Of the bytes as they are in the capsule. */
  sha256: hex.length(64),
  /** Of a sealed block. */
  iv: hex.length(24).optional(),
});

const headerSchema = z.object({
  /** Random: blocks of different capsules do not mix. */
  capsule: z.string(),
  /** The session's id where it was exported. */
  session: z.string().min(1).max(256),
  createdAt: count,
  model: modelIdentitySchema,
  /** Arithmetic that made the KV. */
  variant: z.string(),
  tokens: count,
  /** Tokens whose KV it has. */
  kvTokens: count,
  sealed: z.boolean(),
  blocks: z.array(blockSchema).min(1),
});

export type CapsuleBlock = z.infer<typeof blockSchema>;
export type CapsuleHeader = z.infer<typeof headerSchema>;

/** A capsule whose lengths and checksums are right. */
export interface ParsedCapsule {
  header: CapsuleHeader;
  /** As they are in the capsule, views of it. */
  blocks: { block: CapsuleBlock; bytes: Uint8Array }[];
}

/** The bytes of a capsule, its total hash computed. `blocks` are as `header` describes them. */
export async function joinCapsule(header: CapsuleHeader, blocks: readonly Uint8Array[]): Promise<Uint8Array> {
  const json = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(HEADER_AT);
  start.set(MAGIC);
  start[MAGIC.length] = CAPSULE_FORMAT;
  new DataView(start.buffer).setUint32(MAGIC.length + 1, json.length, true);
  const capsule = await joinBytes([start, json, ...blocks, new Uint8Array(HASH_BYTES)]);
  const end = capsule.length - HASH_BYTES;
  capsule.set(fromHex(await sha256(capsule.subarray(0, end))), end);
  return capsule;
}

/**
 * Takes a capsule apart. Every length is compared with what is there before anything is read or made of it.
 * @throws {CapsuleError} `snapshot_version` for another format, `snapshot_corrupt` for what is no whole capsule
 */
export async function parseCapsule(bytes: Uint8Array): Promise<ParsedCapsule> {
  if (bytes.length < HEADER_AT + HASH_BYTES || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    throw corrupt("it is no capsule, or only the beginning of one");
  }
  const format = bytes[MAGIC.length]!;
  if (format !== CAPSULE_FORMAT) {
    throw new CapsuleError(
      "snapshot_version",
      `Cannot import the capsule: it has format ${format}, this version reads ${CAPSULE_FORMAT}`,
    );
  }
  const end = bytes.length - HASH_BYTES;
  if (await sha256(bytes.subarray(0, end)) !== toHex(bytes.subarray(end))) throw corrupt("its total checksum is wrong");
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const headerBytes = view.getUint32(MAGIC.length + 1, true);
  if (headerBytes > MAX_HEADER_BYTES || HEADER_AT + headerBytes > end) {
    throw corrupt(`its header has ${headerBytes} bytes`);
  }
  const header = parseHeader(bytes.subarray(HEADER_AT, HEADER_AT + headerBytes));
  return { header, blocks: await cutBlocks(header, bytes.subarray(HEADER_AT + headerBytes, end)) };
}

function parseHeader(json: Uint8Array): CapsuleHeader {
  try {
    return headerSchema.parse(JSON.parse(new TextDecoder().decode(json)));
  } catch (cause) {
    throw corrupt("its header is none", cause);
  }
}

async function cutBlocks({ blocks }: CapsuleHeader, bytes: Uint8Array): Promise<ParsedCapsule["blocks"]> {
  const total = blocks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (total !== bytes.length) throw corrupt(`its blocks have ${bytes.length} bytes, its header says ${total}`);
  let at = 0;
  const parts: ParsedCapsule["blocks"] = [];
  for (const [i, block] of blocks.entries()) {
    const part = bytes.subarray(at, at += block.byteLength);
    if (await sha256(part) !== block.sha256) throw corrupt(`the checksum of block ${i} is wrong`);
    parts.push({ block, bytes: part });
  }
  return parts;
}

/** What is wrong with a capsule. */
export const corrupt = (what: string, cause?: unknown): CapsuleError =>
  new CapsuleError("snapshot_corrupt", `Cannot import the capsule: ${what}`, { cause });

export const toHex = (bytes: Uint8Array): string => bytes.toHex();
export const fromHex = (text: string): Uint8Array => Uint8Array.fromHex(text);
/** One after the other; none may lie in shared memory. */
export async function joinBytes(parts: readonly Uint8Array[]): Promise<Uint8Array> {
  return new Uint8Array(await new Blob([...parts] as Uint8Array<ArrayBuffer>[]).arrayBuffer());
}
