import type { KvParts } from "../../src/kv/kv_parts.ts";

/** Parts of exported KV in one piece. */
export async function collect(parts: KvParts): Promise<Uint8Array> {
  const copies: Uint8Array<ArrayBuffer>[] = [];
  for await (const part of parts) copies.push(part.slice());
  return new Uint8Array(await new Blob(copies).arrayBuffer());
}
