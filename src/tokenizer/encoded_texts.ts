import { LRUCache } from "lru-cache";
import type { TextPart } from "./encoding_protocol.ts";

/** Ids of each text. Not to be changed by who gets them. */
type Encoded = readonly (readonly number[])[];

/**
 * Remembers the ids of texts: a conversation comes back whole in every turn, and but for its end it was encoded before.
 * By owner: how long an answer took must not tell one tenant what another has sent.
 */
export class EncodedTexts {
  readonly #ids: LRUCache<string, readonly number[]>;
  /** How often something was forgotten. */
  #forgotten = 0;

  /** @param maxBytes about what texts and ids take at most; those least recently used go first */
  constructor(maxBytes = 16 * 2 ** 20) {
    this.#ids = new LRUCache({
      maxSize: maxBytes,
      sizeCalculation: (ids, key) => 100 + 2 * key.length + 8 * ids.length,
    });
  }

  /** What `encode` gives for these texts, or gave this owner before: it is asked for what is not known, each once. */
  async ids(
    owner: string,
    texts: readonly TextPart[],
    encode: (texts: readonly TextPart[]) => Promise<Encoded>,
  ): Promise<Encoded> {
    const start = ownersKeys(owner);
    const keys = texts.map(({ text, continuesText }) => `${start}${continuesText ? "+" : "^"}${text}`);
    const found = new Map<string, readonly number[]>();
    const missing = new Map<string, TextPart>();
    keys.forEach((key, i) => {
      const ids = this.#ids.get(key);
      if (ids) found.set(key, ids);
      else missing.set(key, texts[i]!);
    });
    if (missing.size > 0) {
      const forgotten = this.#forgotten;
      const encoded = await encode([...missing.values()]);
      [...missing.keys()].forEach((key, i) => {
        found.set(key, encoded[i]!);
        // What was forgotten meanwhile does not come back.
        if (forgotten === this.#forgotten) this.#ids.set(key, encoded[i]!);
      });
    }
    return keys.map((key) => found.get(key)!);
  }

  /** Forgets all that an owner has said. */
  forget(owner: string): void {
    this.#forgotten++;
    const start = ownersKeys(owner);
    for (const key of [...this.#ids.keys()]) if (key.startsWith(start)) this.#ids.delete(key);
  }
}

/** An owner's name has no U+0000 but as its own escape, so that no owner and text spell another's. */
const ownersKeys = (owner: string) => `${JSON.stringify(owner)}\0`;
