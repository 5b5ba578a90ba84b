import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { joinParts, lendParts, slices } from "../../src/kv/kv_parts.ts";
import { collect } from "./collect.ts";

const bytesOf = (length: number) => Uint8Array.from({ length }, (_, i) => i % 251);

/** Cuts bytes at given places, all through the same memory, as a backend or a file gives them. */
async function* cut(bytes: Uint8Array, sizes: readonly number[]): AsyncGenerator<Uint8Array> {
  const memory = new Uint8Array(bytes.length);
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const part = bytes.subarray(at, at + sizes[i % sizes.length]!);
    memory.fill(255);
    memory.set(part);
    yield memory.subarray(0, part.length);
    at += part.length;
  }
}

test("parts, however they are cut, fill a lent buffer again and again, and the rest comes last", async () => {
  const sizes = fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 5 });
  await fc.assert(fc.asyncProperty(fc.nat(200), fc.integer({ min: 1, max: 50 }), sizes, async (length, room, sizes) => {
    const bytes = bytesOf(length);
    const lent: { bytes: Uint8Array; last: boolean }[] = [];
    await lendParts(cut(bytes, sizes), new ArrayBuffer(room), async (buffer, count, last) => {
      lent.push({ bytes: new Uint8Array(buffer, 0, count).slice(), last });
      // As a thread gives it back: the same memory under another name.
      return buffer.transfer();
    });
    assert.deepEqual(await collect(lent.map(({ bytes }) => bytes)), bytes);
    assert.deepEqual(lent.map(({ last }) => last), lent.map((_, i) => i === lent.length - 1));
    for (const { bytes } of lent.slice(0, -1)) assert.equal(bytes.length, room);
    assert.deepEqual(await joinParts(cut(bytes, sizes), length), bytes);
  }));
});

test("joinParts() takes fewer bytes than it has room for, and refuses more", async () => {
  assert.deepEqual(await joinParts(slices(bytesOf(10), 3), 12), bytesOf(10));
  await assert.rejects(joinParts(slices(bytesOf(10), 3), 9), { name: "RangeError", message: /more than 9 bytes/ });
});
