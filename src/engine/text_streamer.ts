import { Detokenizer } from "../tokenizer/detokenizer.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Receives tokens while a pipeline generates: first the prompt's, then one at a time. transformers.js's contract. */
export interface Streamer {
  /** @param value `[1, tokens]` ids */
  put(value: bigint[][]): void;
  /** Called once, after the last token. */
  end(): void;
}

/** Options of {@linkcode TextStreamer}, named as in transformers.js. */
export interface TextStreamerOptions {
  /** Leave out the prompt. @default false */
  skip_prompt?: boolean;
  /** Leave out control tokens. @default true */
  skip_special_tokens?: boolean;
  /** Takes each piece of text. @default writes to standard output */
  callback_function?: (text: string) => void;
  /** Takes each token, or the prompt's tokens, before its text. */
  token_callback_function?: (tokens: bigint[]) => void;
}

/**
 * Hands on text as it is generated: each character as soon as its last byte is there, where
 * transformers.js's class of the same name waits for the end of a word.
 */
export class TextStreamer implements Streamer {
  readonly #options: TextStreamerOptions;
  readonly #detokenizer: Detokenizer;
  #promptSeen = false;

  constructor(tokenizer: Tokenizer, options: TextStreamerOptions = {}) {
    this.#options = options;
    this.#detokenizer = new Detokenizer(tokenizer, { skipSpecialTokens: options.skip_special_tokens ?? true });
  }

  put(value: bigint[][]): void {
    if (value.length !== 1) {
      throw new RangeError(`Cannot stream ${value.length} sequences: wanted 1, a streamer follows a single answer`);
    }
    const isPrompt = !this.#promptSeen;
    this.#promptSeen = true;
    if (isPrompt && this.#options.skip_prompt) return;
    const tokens = value[0]!;
    this.#options.token_callback_function?.(tokens);
    this.#emit(tokens.map((id) => this.#detokenizer.push(Number(id))).join(""));
  }

  end(): void {
    this.#emit(this.#detokenizer.flush());
    this.#promptSeen = false;
  }

  #emit(text: string): void {
    if (text) (this.#options.callback_function ?? ((t) => process.stdout.write(t)))(text);
  }
}
