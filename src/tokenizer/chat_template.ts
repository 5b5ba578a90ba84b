import { z } from "zod";
import { ChatTemplateError } from "../errors.ts";
import type { TextPart } from "./encoding_protocol.ts";
import { TemplateThread } from "./template_thread.ts";
import { escapeRegExp, type Tokenizer } from "./tokenizer.ts";

/** One message of a conversation. */
export interface ChatMessage {
  /** Usually `system`, `user` or `assistant`; the template decides. */
  role: string;
  content: string;
}

/** Options of {@linkcode ChatTemplate.fromConfig}. */
export interface ChatTemplateLimits {
  /** Where it runs. @default one thread for all of the process */
  thread?: TemplateThread;
  /** Longest that it may run for one prompt, in milliseconds. @default 2000 */
  limitMs?: number;
}

/** Options of {@linkcode ChatTemplate.encode}. */
export interface ChatTemplateOptions {
  /** End with the words that make the model answer. @default true */
  addGenerationPrompt?: boolean;
  /**
   * Ids to use for a message's content instead of encoding its text, by message index: an answer keeps the ids it
   * was sampled with, which are not always those its text would be cut into.
   */
  replyIds?: ReadonlyMap<number, readonly number[]>;
  /** Called with where the ids of each of `replyIds` stand in the prompt, `[from, to)`. */
  onReply?: (message: number, from: number, to: number) => void;
  /** Ids of each of the prompt's texts, which have no control tokens. @default `tokenizer.encode` */
  encodeTexts?: (texts: readonly TextPart[]) => Promise<readonly (readonly number[])[]>;
  /** Nobody waits for the prompt any more. */
  signal?: AbortSignal;
}

/** What a prompt is made of, in order: texts, and ids of control tokens and of messages that bring their own. */
type Piece = string | { ids: readonly number[]; message?: number };

const named = z.union([z.string(), z.object({ content: z.string() }).transform(({ content }) => content)]).nullish();
/** A prompt may have so many characters beside four times those of its messages: tool lists, dates, instructions. */
const SPARE_LENGTH = 2 ** 20;

/** Not started before it is asked. */
const sharedThread = new TemplateThread();

/**
 * Starts the thread that templates run in, so that the first prompt need not wait for it.
 * @throws {BackendUnavailableError} when it cannot start
 */
export const warmTemplateThread = (): Promise<void> => sharedThread.warm();

const schema = z.looseObject({ chat_template: z.string(), bos_token: named, eos_token: named });

// What must pass through a template unseen travels as OPEN + name + CLOSE. U+FDD0 and U+FDD1 are Unicode
// noncharacters, "intended for process-internal uses"; one that comes in a message is itself escaped.
const OPEN = "\u{FDD0}";
const CLOSE = "\u{FDD1}";
const ESCAPED = new RegExp(`${OPEN}([a-z]\\d*)${CLOSE}`);

/**
 * The model's own Jinja template: messages to the token ids of a prompt. Control tokens that the template writes
 * are tokens; the same words in a message stay text. The template runs in a thread of its own and for a limited time.
 */
export class ChatTemplate {
  readonly #template: string;
  readonly #thread: TemplateThread;
  readonly #limitMs: number;
  readonly #variables: Record<string, string>;
  readonly #tokenizer: Tokenizer;
  /** What may not stand in a message as it is. */
  readonly #unsafe: RegExp;

  /**
   * @param tokenizerConfig parsed `tokenizer_config.json`
   * @throws {ChatTemplateError} when it has no template
   */
  static fromConfig(tokenizerConfig: unknown, tokenizer: Tokenizer, limits: ChatTemplateLimits = {}): ChatTemplate {
    return new ChatTemplate(tokenizerConfig, tokenizer, limits);
  }

  private constructor(tokenizerConfig: unknown, tokenizer: Tokenizer, limits: ChatTemplateLimits) {
    const parsed = schema.safeParse(tokenizerConfig);
    if (!parsed.success) {
      throw new ChatTemplateError("tokenizer_config.json has no chat_template", { cause: parsed.error });
    }
    this.#template = parsed.data.chat_template;
    this.#thread = limits.thread ?? sharedThread;
    this.#limitMs = limits.limitMs ?? 2000;
    this.#variables = { bos_token: parsed.data.bos_token ?? "", eos_token: parsed.data.eos_token ?? "" };
    this.#tokenizer = tokenizer;
    this.#unsafe = new RegExp([OPEN, ...tokenizer.specialTokens.map(escapeRegExp)].join("|"), "g");
  }

  /**
   * The prompt as text, to look at: control tokens in a message can't be told from the template's here.
   * @throws {InvalidRequestError} when the template refuses the messages
   * @throws {ChatTemplateError} when it can't be parsed, takes too long, or makes too much of them
   */
  async renderText(
    messages: readonly ChatMessage[],
    options: Pick<ChatTemplateOptions, "addGenerationPrompt" | "signal"> = {},
  ): Promise<string> {
    const length = messages.reduce((total, { role, content }) => total + role.length + content.length, 0);
    return await this.#thread.render({
      template: this.#template,
      variables: {
        ...this.#variables,
        messages: messages.map(({ role, content }) => ({ role, content })),
        add_generation_prompt: options.addGenerationPrompt ?? true,
      },
      maxLength: 4 * length + SPARE_LENGTH,
    }, { limitMs: this.#limitMs, signal: options.signal });
  }

  /**
   * Token ids of the prompt.
   * @throws what `renderText` and `encodeTexts` throw
   */
  async encode(messages: readonly ChatMessage[], options: ChatTemplateOptions = {}): Promise<number[]> {
    const { replyIds, onReply, encodeTexts = this.#encodeHere } = options;
    const escaped = messages.map(({ role, content }, index) => ({
      role: this.#escape(role),
      content: replyIds?.has(index) ? `${OPEN}r${index}${CLOSE}` : this.#escape(content),
    }));
    const rendered = await this.renderText(escaped, options);
    const pieces = this.#tokenizer.splitSpecialTokens(rendered).flatMap((part): Piece[] =>
      typeof part === "number" ? [{ ids: [part] }] : this.#piecesOf(part, replyIds)
    );
    const encoded = (await encodeTexts(textsOf(pieces))).values();
    const ids: number[] = [];
    for (const piece of pieces) {
      const from = ids.length;
      for (const id of typeof piece === "string" ? encoded.next().value! : piece.ids) ids.push(id);
      if (typeof piece !== "string" && piece.message !== undefined) onReply?.(piece.message, from, ids.length);
    }
    return ids;
  }

  #encodeHere = (texts: readonly TextPart[]): Promise<number[][]> =>
    Promise.resolve(texts.map(({ text, continuesText }) => this.#tokenizer.encode(text, { continuesText })));

  /** A text without control tokens, cut where messages bring their own ids. */
  #piecesOf(part: string, replyIds: ChatTemplateOptions["replyIds"]): Piece[] {
    const pieces: Piece[] = [];
    let text = "";
    const endText = () => {
      if (text !== "") pieces.push(text);
      text = "";
    };
    // split() with a group: plain text at even places, escaped names at odd ones.
    part.split(ESCAPED).forEach((piece, i) => {
      const message = i % 2 && piece[0] === "r" ? Number(piece.slice(1)) : undefined;
      const ids = message === undefined ? undefined : replyIds?.get(message);
      if (ids) {
        endText();
        pieces.push({ ids, message });
      } else text += i % 2 ? this.#unescape(piece) : piece;
    });
    endText();
    return pieces;
  }

  #escape(text: string): string {
    return text.replace(this.#unsafe, (token) => {
      return `${OPEN}${token === OPEN ? "o" : `s${this.#tokenizer.specialTokens.indexOf(token)}`}${CLOSE}`;
    });
  }

  #unescape(name: string): string {
    return name === "o" ? OPEN : this.#tokenizer.specialTokens[Number(name.slice(1))]!;
  }
}

/** The texts among pieces; all but what a prompt begins with go on others. */
function textsOf(pieces: readonly Piece[]): TextPart[] {
  const texts: TextPart[] = [];
  let continuesText = false;
  for (const piece of pieces) {
    if (typeof piece === "string") texts.push({ text: piece, continuesText });
    continuesText ||= typeof piece === "string" || piece.ids.length > 0;
  }
  return texts;
}
