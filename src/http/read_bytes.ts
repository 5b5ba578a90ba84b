/**
 * The body of a request. Stops reading where it is too large, and does not begin where it says so.
 * @returns `undefined` when it has more than `limit` bytes
 */
export async function readBytes(request: Request, limit: number): Promise<Uint8Array | undefined> {
  if (Number(request.headers.get("content-length") ?? 0) > limit) return undefined;
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of request.body ?? []) {
    length += part.length;
    // Leaving the loop cancels the body.
    if (length > limit) return undefined;
    parts.push(part);
  }
  return new Uint8Array(Buffer.concat(parts, length));
}
