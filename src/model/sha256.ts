/**
 * SHA-256 in hex, off this thread: there may be a hundred megabytes. The bytes are copied before this returns its
 * promise, which never rejects.
 */
export async function sha256(bytes: Uint8Array): Promise<string> {
  // The DOM's types ask for a buffer that is not shared.
  const hash = await crypto.subtle.digest("SHA-256", bytes as Uint8Array<ArrayBuffer>);
  return new Uint8Array(hash).toHex();
}
