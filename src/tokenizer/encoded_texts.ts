import { LRUCache } from "lru-cache";

/**
 * Remembers the ids of texts: a conversation comes back whole in every turn, and but for its end it was encoded before.
 * By owner: how long an answer took must not tell one tenant what another has sent.
 */
export class EncodedTexts {
  readonly #ids: LRUCache<string, readonly number[]>;

  /** @param maxBytes about what texts and ids take at most; those least recently used go first */
  constructor(maxBytes = 16 * 2 ** 20) {
    this.#ids = new LRUCache({
      maxSize: maxBytes,
      sizeCalculation: (ids, key) => 100 + 2 * key.length + 8 * ids.length,
    });
  }

  /** `encode(text)`, or what it gave this owner before. Not to be changed by the caller. */
  ids(owner: string, text: string, encode: (text: string) => readonly number[]): readonly number[] {
    const key = ownersKeys(owner) + text;
    let ids = this.#ids.get(key);
    if (!ids) this.#ids.set(key, ids = encode(text));
    return ids;
  }

  /** Forgets all that an owner has said. */
  forget(owner: string): void {
    const start = ownersKeys(owner);
    for (const key of [...this.#ids.keys()]) if (key.startsWith(start)) this.#ids.delete(key);
  }
}

/** An owner's name has no U+0000 but as its own escape, so that no owner and text spell another's. */
const ownersKeys = (owner: string) => `${JSON.stringify(owner)}\0`;
