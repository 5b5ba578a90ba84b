import type { Tokenizer } from "./tokenizer.ts";

/** Options of {@linkcode Detokenizer}. */
export interface DetokenizerOptions {
  /** Leave control tokens out. @default true */
  skipSpecialTokens?: boolean;
  /**
   * The tokens go on a text rather than begin one: a leading space counts. Matters for SentencePiece models only.
   * @default false
   */
  continuesText?: boolean;
}

/**
 * Token ids to text, one at a time: the pieces put together are `tokenizer.decode(ids)`, and no piece ends inside
 * a character.
 */
export class Detokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #skipSpecialTokens: boolean;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #atStart: boolean;
  /** Spaces taken off so far. */
  #stripped = 0;

  constructor(tokenizer: Tokenizer, options: DetokenizerOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#skipSpecialTokens = options.skipSpecialTokens ?? true;
    this.#atStart = !(options.continuesText ?? false);
  }

  /** @returns text that is complete now; `""` inside a character */
  push(id: number): string {
    if (this.#skipSpecialTokens && this.#tokenizer.isSpecial(id)) return "";
    return this.#begin(this.#decoder.decode(this.#tokenizer.tokenBytes(id), { stream: true }));
  }

  /** Ends the text. @returns U+FFFD for a character that was never finished, else `""` */
  flush(): string {
    return this.#begin(this.#decoder.decode());
  }

  #begin(text: string): string {
    if (!this.#atStart || text === "") return text;
    const rest = this.#tokenizer.stripLeadingSpaces(text, this.#stripped);
    this.#stripped += text.length - rest.length;
    // After spaces alone more of them may have to go.
    this.#atStart = rest === "";
    return rest;
  }
}
