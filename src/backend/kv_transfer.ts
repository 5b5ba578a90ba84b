import { checkKvBytes, type ModelSession } from "./model_session.ts";
import type { Reply, Request } from "./thread_protocol.ts";

/** What a request for KV gets: as much as its buffer takes, or all of it. */
export async function exportPart(
  kv: ModelSession["kv"],
  { cacheId, length, at, buffer }: Extract<Request, { type: "export" }>,
): Promise<Omit<Extract<Reply, { type: "exported" }>, "type">> {
  if (kv.unit === undefined) {
    const bytes = await kv.export(cacheId, length);
    return { buffer: bytes.buffer, count: bytes.length, last: true };
  }
  const left = kv.byteLength(length) - at;
  const count = Math.min(left, buffer!.byteLength);
  kv.read(cacheId, length, at, new Uint8Array(buffer!, 0, count));
  return { buffer: buffer!, count, last: count === left };
}

/** Takes what `exportPart` gave. @throws {RangeError} when the bytes are not so many tokens' */
export async function importPart(
  kv: ModelSession["kv"],
  { cacheId, length, at, buffer, count, last }: Extract<Request, { type: "import" }>,
): Promise<void> {
  const part = new Uint8Array(buffer, 0, count);
  if (kv.unit === undefined) return await kv.import(cacheId, length, part);
  const wanted = kv.byteLength(length);
  if (last || at + count > wanted) checkKvBytes(at + count, length, wanted);
  kv.write(cacheId, length, at, part);
}
