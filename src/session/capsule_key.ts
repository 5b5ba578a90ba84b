/** AES-GCM's own length, in bytes. */
export const IV_BYTES = 12;

/** Seals and opens the blocks of capsules: AES-256-GCM under a key derived from a secret by HKDF. */
export class CapsuleKey {
  readonly #key: Promise<CryptoKey>;

  /** @param secret what an operator configures; as good a key as it is hard to guess */
  constructor(secret: string) {
    if (secret.length < 16) {
      throw new RangeError(`Cannot use a key of ${secret.length} characters: wanted 16 or more, hard to guess`);
    }
    this.#key = derive(secret);
  }

  /**
   * @param bound what the block belongs to: opening it asks for the same
   * @returns ciphertext and tag
   */
  async seal(data: Uint8Array, iv: Uint8Array, bound: Uint8Array): Promise<Uint8Array> {
    const params = { name: "AES-GCM", iv: copy(iv), additionalData: copy(bound) };
    return new Uint8Array(await crypto.subtle.encrypt(params, await this.#key, copy(data)));
  }

  /** @returns what was sealed; `undefined` when it was not, with this key and for this */
  async open(sealed: Uint8Array, iv: Uint8Array, bound: Uint8Array): Promise<Uint8Array | undefined> {
    const params = { name: "AES-GCM", iv: copy(iv), additionalData: copy(bound) };
    try {
      return new Uint8Array(await crypto.subtle.decrypt(params, await this.#key, copy(sealed)));
    } catch {
      return undefined;
    }
  }
}

async function derive(secret: string): Promise<CryptoKey> {
  const text = (value: string) => copy(new TextEncoder().encode(value));
  const material = await crypto.subtle.importKey("raw", text(secret), "HKDF", false, ["deriveKey"]);
  const params = { name: "HKDF", hash: "SHA-256", salt: text("hearth"), info: text("session capsule") };
  return await crypto.subtle.deriveKey(params, material, { name: "AES-GCM", length: 256 }, false, [
    "encrypt",
    "decrypt",
  ]);
}

/** WebCrypto wants views of buffers that are not shared. */
const copy = (bytes: Uint8Array) => new Uint8Array(bytes);
