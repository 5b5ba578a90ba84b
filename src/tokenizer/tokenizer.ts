import { Tokenizer as HfTokenizer } from "@huggingface/tokenizers";
import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { exactPreTokenizer, laterPreTokenizer } from "./pre_tokenizer.ts";
import { type TokenBytes, tokenBytesOf } from "./token_bytes.ts";

/** Options of {@linkcode Tokenizer.encode}. */
export interface EncodeOptions {
  /**
   * What `<|im_end|>` and the like become when the text spells them: the token (`"parse"`), or the ordinary
   * tokens of its letters (`"text"`). Text from users is `"text"`.
   * @default "text"
   */
  specialTokens?: "parse" | "text";
  /** Begin with the model's begin-of-text token, where the model wants one. @default false */
  addBos?: boolean;
  /** The text goes on another: no space is put before it by models that do so with the first only. @default false */
  continuesText?: boolean;
}

/** Options of {@linkcode Tokenizer.decode}. */
export interface DecodeOptions {
  /** Leave control tokens out. @default true */
  skipSpecialTokens?: boolean;
}

/** Loose: `@huggingface/tokenizers` reads more of it. */
const addedToken = z.looseObject({
  id: z.int().nonnegative(),
  content: z.string().min(1),
  special: z.boolean().default(false),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
});
type AddedToken = z.infer<typeof addedToken>;

const jsonSchema = z.looseObject({ added_tokens: z.array(addedToken).default([]), decoder: z.unknown() });
const named = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)]).nullish();
const configSchema = z.looseObject({ bos_token: named, eos_token: named, add_bos_token: z.boolean().nullish() });

/**
 * Text to token ids and back. Encoding is `@huggingface/tokenizers`; decoding goes by bytes, so that a stream of
 * tokens and the whole sequence give the same text.
 */
export class Tokenizer {
  /** Ids run from 0 to one less. A model may have more, for padding. */
  readonly vocabSize: number;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
  /** Contents of the control tokens, longest first: none hides the start of another. */
  readonly specialTokens: readonly string[];
  readonly #parsing: HfTokenizer;
  readonly #literal: HfTokenizer;
  /** The same for text that goes on another. */
  readonly #literalLater: HfTokenizer;
  readonly #added: ReadonlyMap<number, AddedToken>;
  readonly #special: ReadonlyMap<string, AddedToken>;
  readonly #specialPattern: RegExp | undefined;
  readonly #bosIds: readonly number[];
  readonly #bytes: TokenBytes;

  /**
   * @param tokenizerJson parsed `tokenizer.json`
   * @param tokenizerConfig parsed `tokenizer_config.json`
   * @throws {ModelFileError} when a file is not of a kind that can be used
   */
  static fromJson(tokenizerJson: unknown, tokenizerConfig: unknown): Tokenizer {
    return new Tokenizer(
      parse(jsonSchema, tokenizerJson, "tokenizer.json"),
      parse(configSchema, tokenizerConfig, "tokenizer_config.json"),
    );
  }

  private constructor(json: z.infer<typeof jsonSchema>, config: z.infer<typeof configSchema>) {
    this.#bytes = tokenBytesOf(json.decoder);
    const special = json.added_tokens.filter(isControl);
    try {
      const exactJson = { ...json, pre_tokenizer: exactPreTokenizer(json.pre_tokenizer ?? null) };
      this.#parsing = new HfTokenizer(exactJson, config);
      const literalJson = { ...exactJson, added_tokens: json.added_tokens.filter((token) => !isControl(token)) };
      this.#literal = new HfTokenizer(literalJson, config);
      const later = laterPreTokenizer(literalJson.pre_tokenizer);
      this.#literalLater = later === literalJson.pre_tokenizer
        ? this.#literal
        : new HfTokenizer({ ...literalJson, pre_tokenizer: later }, config);
    } catch (cause) {
      throw new ModelFileError(`Cannot use tokenizer.json: ${(cause as Error).message}`, { cause });
    }
    this.#added = new Map(json.added_tokens.map((token) => [token.id, token]));
    this.#special = new Map(special.map((token) => [token.content, token]));
    this.specialTokens = [...this.#special.keys()].sort((a, b) => b.length - a.length);
    if (special.length > 0) this.#specialPattern = new RegExp(`(${this.specialTokens.map(escapeRegExp).join("|")})`);
    this.vocabSize = Math.max(-1, ...this.#added.keys(), vocabularyEnd(this.#parsing) - 1) + 1;
    this.bosTokenId = config.bos_token ? this.#parsing.token_to_id(config.bos_token) : undefined;
    this.eosTokenId = config.eos_token ? this.#parsing.token_to_id(config.eos_token) : undefined;
    this.#bosIds = this.#findBosIds(config.add_bos_token ?? undefined);
  }

  /** Token ids of `text`; none for `""`, unless the model begins every text with one. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const { continuesText = false } = options;
    const ids = options.specialTokens === "parse"
      ? this.#parse(text, continuesText)
      : this.#encodeLiteral(text, continuesText);
    return options.addBos ? [...this.#bosIds, ...ids] : ids;
  }

  #encodeLiteral(text: string, continuesText: boolean): number[] {
    const tokenizer = continuesText ? this.#literalLater : this.#literal;
    return text === "" ? [] : tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  #parse(text: string, continuesText: boolean): number[] {
    return this.splitSpecialTokens(text).flatMap((part, i) =>
      typeof part === "number" ? part : this.#encodeLiteral(part, continuesText || i > 0)
    );
  }

  /**
   * Cuts a rendered template at the control tokens it spells: texts, and ids of control tokens, in order.
   * A control token takes the white space beside it along where the model says so (Phi-3: after it).
   */
  splitSpecialTokens(text: string): (string | number)[] {
    if (!this.#specialPattern) return [text];
    const parts = text.split(this.#specialPattern);
    // split() with a group: texts at even places, control tokens at odd ones.
    for (let i = 1; i < parts.length; i += 2) {
      const token = this.#special.get(parts[i]!)!;
      if (token.lstrip) parts[i - 1] = withoutSpaceAfter(parts[i - 1]!);
      if (token.rstrip) parts[i + 1] = withoutSpaceBefore(parts[i + 1]!);
    }
    return parts.map((part, i) => (i % 2 ? this.#special.get(part)!.id : part)).filter((part) => part !== "");
  }

  /** Text of `ids`; bytes that are no UTF-8 become U+FFFD. */
  decode(ids: Iterable<number>, options: DecodeOptions = {}): string {
    const skip = options.skipSpecialTokens ?? true;
    const chunks = Array.from(ids, (id) => (skip && this.isSpecial(id) ? new Uint8Array(0) : this.tokenBytes(id)));
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(concat(chunks));
    return this.stripLeadingSpaces(text);
  }

  /**
   * Takes off what SentencePiece models put before every text; others give the text back.
   * @param stripped spaces that were taken off before this text
   */
  stripLeadingSpaces(text: string, stripped = 0): string {
    let count = 0;
    while (count + stripped < this.#bytes.leadingSpaces && text[count] === " ") count++;
    return text.slice(count);
  }

  /** UTF-8 bytes that a token stands for, which may be part of a character; none for an unknown id. */
  tokenBytes(id: number): Uint8Array {
    const added = this.#added.get(id);
    if (added) return new TextEncoder().encode(added.content);
    const token = this.#parsing.id_to_token(id);
    return token === undefined ? new Uint8Array(0) : this.#bytes.bytes(token);
  }

  /** A token's text on its own, control tokens spelled out. */
  tokenText(id: number): string {
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.tokenBytes(id));
  }

  /** Whether an id is a control token, such as `<|im_end|>`. */
  isSpecial(id: number): boolean {
    const added = this.#added.get(id);
    return added !== undefined && isControl(added);
  }

  /** What the post-processor puts before a text; `add_bos_token` overrules it, as in transformers. */
  #findBosIds(addBosToken: boolean | undefined): number[] {
    if (addBosToken !== undefined) return addBosToken && this.bosTokenId !== undefined ? [this.bosTokenId] : [];
    const plain = this.#parsing.encode("a", { add_special_tokens: false }).ids;
    const whole = this.#parsing.encode("a", { add_special_tokens: true }).ids;
    return whole.slice(0, Math.max(0, whole.indexOf(plain[0]!)));
  }
}

/** Phi-3 does not mark its `</s>` as special, yet it ends texts: what looks like a tag is one. */
function isControl({ special, content }: AddedToken): boolean {
  return special || /^<[^<>\s]+>$/.test(content);
}

/**
 * White space as Unicode and the Rust library have it. JavaScript's `trim` takes U+FEFF for space, and U+0085 for none;
 * so does `@huggingface/tokenizers` 0.2.0 beside control tokens, which is why they are cut out before it sees a text.
 */
const isSpace = (char: string | undefined) => char !== undefined && /\p{White_Space}/u.test(char);

function withoutSpaceBefore(text: string): string {
  let start = 0;
  while (isSpace(text[start])) start++;
  return text.slice(start);
}

function withoutSpaceAfter(text: string): string {
  let end = text.length;
  while (isSpace(text[end - 1])) end--;
  return text.slice(0, end);
}

function vocabularyEnd(tokenizer: HfTokenizer): number {
  return tokenizer.model?.vocab.length ?? 0;
}

function parse<T>(schema: z.ZodType<T>, json: unknown, file: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new ModelFileError(`Cannot use ${file}: ${z.prettifyError(parsed.error)}`, { cause: parsed.error });
}

function concat(chunks: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(chunks.reduce((total, { length }) => total + length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}

/** A pattern that matches `text` and nothing else. */
export const escapeRegExp = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
