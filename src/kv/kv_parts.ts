/** Exported KV, part by part: each is valid until the next is asked for. */
export type KvParts = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** What one copy or checksum takes less than a millisecond for. */
export const KV_PART_BYTES = 4 * 2 ** 20;

/**
 * Parts in one piece.
 * @param most bytes of them all
 * @throws {RangeError} when they are more
 */
export async function joinParts(parts: KvParts, most: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = new Uint8Array(most);
  let at = 0;
  for await (const part of parts) {
    if (at + part.length > most) throw new RangeError(`Cannot join KV: more than ${most} bytes came`);
    bytes.set(part, at);
    at += part.length;
  }
  return at < most ? bytes.slice(0, at) : bytes;
}

/** Lends a buffer with `count` bytes in it, and gets it back. */
export type LendBuffer = (buffer: ArrayBuffer, count: number, last: boolean) => Promise<ArrayBuffer>;

/** Parts cut anew: what fills `buffer`, lent whenever it is full, and what is left at the end. */
export async function lendParts(parts: KvParts, buffer: ArrayBuffer, lend: LendBuffer): Promise<void> {
  let count = 0;
  for await (const part of parts) {
    for (let at = 0; at < part.length;) {
      if (count === buffer.byteLength) [buffer, count] = [await lend(buffer, count, false), 0];
      const piece = part.subarray(at, at + buffer.byteLength - count);
      new Uint8Array(buffer).set(piece, count);
      count += piece.length;
      at += piece.length;
    }
  }
  await lend(buffer, count, true);
}

/** Views of bytes, one after the other. */
export function* slices(bytes: Uint8Array, most = KV_PART_BYTES): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += most) yield bytes.subarray(at, at + most);
}
