import { createHash } from "node:crypto";
import { z } from "zod";
import { StorageError } from "../errors.ts";
import { deltaSchema, modelIdentitySchema } from "./stored_schema.ts";
import { Transcript, type TranscriptDelta } from "./transcript.ts";

/*
 * A session on disk:
 *
 *   "HEARTHS" | u8 format | record of the header | record of a delta | record of a delta | ...
 *
 * and a record, integers little-endian:
 *
 *   u32 length | u32 ~length | 16 bytes, the first of SHA-256(payload) | payload, JSON of `length` bytes
 */

/** Format that this version writes and reads. */
export const LOG_FORMAT = 1;

const MAGIC = new TextEncoder().encode("HEARTHS");
const START_BYTES = MAGIC.length + 1;
const HEAD_BYTES = 24;
/** Nothing here is nearly so long: a length beyond it is no length. */
const MAX_RECORD_BYTES = 2 ** 28;

const headerSchema = z.object({
  tenant: z.string(),
  id: z.string(),
  createdAt: z.int().min(0),
  model: modelIdentitySchema,
});
const recordSchema = z.object({
  delta: deltaSchema,
  /** When it was written, in milliseconds since 1970. */
  at: z.int().min(0),
  /** Lifetime from then on, in milliseconds; absent: the server's. */
  ttlMs: z.number().positive().optional(),
});

/** First record of a log. */
export type LogHeader = z.infer<typeof headerSchema>;
/** Every other record. */
export type LogRecord = z.infer<typeof recordSchema>;

/** What a log comes to, or why it cannot be read. */
export type LogContents =
  | { header: LogHeader; transcript: Transcript; last: LogRecord; wholeBytes: number }
  | { unreadable: string };

/** Bytes of a new log. @throws {StorageError} as `encodeRecord` */
export function encodeLog(header: LogHeader, records: readonly LogRecord[]): Uint8Array {
  const start = [MAGIC, [LOG_FORMAT], encode(headerSchema, header)];
  return Buffer.concat([...start, ...records.map(encodeRecord)].map(toBytes));
}

/**
 * Bytes of one record.
 * @throws {StorageError} when it would not be read back: nobody may be told that such a one is kept
 */
export function encodeRecord(record: LogRecord): Uint8Array {
  return encode(recordSchema, record);
}

function encode<T>(schema: z.ZodType<T>, value: T): Uint8Array {
  const issue = schema.safeParse(value).error?.issues[0];
  if (issue) throw notKept(`${issue.path.join(".")} would not be read back, ${issue.message}`);
  const payload = new TextEncoder().encode(JSON.stringify(value));
  if (payload.length > MAX_RECORD_BYTES) throw notKept(`${payload.length} bytes, wanted at most ${MAX_RECORD_BYTES}`);
  const bytes = new Uint8Array(HEAD_BYTES + payload.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, payload.length, true);
  view.setUint32(4, ~payload.length, true);
  bytes.set(checksum(payload), 8);
  bytes.set(payload, HEAD_BYTES);
  return bytes;
}

/**
 * Reads a log to its last whole record. What comes after it was being written when the process died, if it is cut short
 * or all zero, and nothing whole follows; else the log is damaged.
 */
export function decodeLog(bytes: Uint8Array): LogContents {
  if (bytes.length < START_BYTES || MAGIC.some((byte, i) => bytes[i] !== byte)) {
    return { unreadable: "the file is no session" };
  }
  const format = bytes[MAGIC.length]!;
  if (format !== LOG_FORMAT) {
    return { unreadable: `the file has format ${format}, this version reads ${LOG_FORMAT}` };
  }
  let at = START_BYTES;
  const payloads: unknown[] = [];
  for (let payload = wholeRecord(bytes, at); payload; payload = wholeRecord(bytes, at)) {
    at += HEAD_BYTES + payload.length;
    payloads.push(parseJson(payload));
  }
  if (at < bytes.length && !isTorn(bytes, at)) return { unreadable: `the file is damaged at byte ${at}` };
  return replay(payloads, at);
}

function replay([first, ...rest]: unknown[], wholeBytes: number): LogContents {
  const header = headerSchema.safeParse(first);
  const records = z.array(recordSchema).min(1).safeParse(rest);
  if (!header.success || !records.success) return { unreadable: "the file's records are not those of a session" };
  const transcript = new Transcript();
  try {
    for (const { delta } of records.data) transcript.apply(delta);
  } catch (error) {
    return { unreadable: `the file contradicts itself: ${(error as Error).message}` };
  }
  return { header: header.data, transcript, last: records.data.at(-1)!, wholeBytes };
}

/** Payload of the record at a place, if it is there, whole and right. */
function wholeRecord(bytes: Uint8Array, at: number): Uint8Array | undefined {
  const length = recordLength(bytes, at);
  if (length === undefined || at + HEAD_BYTES + length > bytes.length) return undefined;
  const payload = bytes.subarray(at + HEAD_BYTES, at + HEAD_BYTES + length);
  const expected = bytes.subarray(at + 8, at + HEAD_BYTES);
  return checksum(payload).every((byte, i) => byte === expected[i]) ? payload : undefined;
}

function recordLength(bytes: Uint8Array, at: number): number | undefined {
  if (at + HEAD_BYTES > bytes.length) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const length = view.getUint32(at, true);
  return length <= MAX_RECORD_BYTES && (~length >>> 0) === view.getUint32(at + 4, true) ? length : undefined;
}

function isTorn(bytes: Uint8Array, at: number): boolean {
  if (bytes.subarray(at).every((byte) => byte === 0)) return true;
  const length = recordLength(bytes, at);
  const cutShort = at + HEAD_BYTES > bytes.length || (length !== undefined && at + HEAD_BYTES + length > bytes.length);
  if (!cutShort) return false;
  for (let next = at + 1; next + HEAD_BYTES <= bytes.length; next++) if (wholeRecord(bytes, next)) return false;
  return true;
}

function parseJson(payload: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(payload));
  } catch {
    return undefined;
  }
}

const notKept = (why: string) => new StorageError(`Cannot keep the turn on disk: ${why}`);
const checksum = (payload: Uint8Array) => createHash("sha256").update(payload).digest().subarray(0, 16);
const toBytes = (part: Uint8Array | number[]) => Uint8Array.from(part);

/** The delta that a session has been given, with when and for how long. */
export const logRecord = (delta: TranscriptDelta, ttlMs: number | undefined): LogRecord => ({
  delta,
  at: Date.now(),
  ...(ttlMs !== undefined && { ttlMs }),
});
