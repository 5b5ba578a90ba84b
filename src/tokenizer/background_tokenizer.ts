import { BackendUnavailableError, TokenizerError } from "../errors.ts";
import { AskedThread } from "./asked_thread.ts";
import type { EncodeReply, EncodeRequest, EncodingData, TextPart } from "./encoding_protocol.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Options of {@linkcode BackgroundTokenizer}. */
export interface BackgroundTokenizerOptions {
  /**
   * Most that is encoded here, in UTF-16 units of all texts together. @default 8192: 3 ms with the bundled model's
   * tokenizer, 10 ms with Phi-3's, of which no token of another stream comes
   */
  hereLength?: number;
  /** Longest that a request may take, in milliseconds. @default 2000 and 40 for each 1,000 UTF-16 units */
  limitMs?: number;
  /** How long the thread is kept without a request, in milliseconds. @default 300000 */
  idleMs?: number;
}

/**
 * Encodes texts without holding up who else is served: few and short ones here, since a message to a thread costs more
 * than they do, and long ones in a thread of their own. It starts with the first of those, which takes 0.2 s, and ends
 * when none came for a while: it has a tokenizer of its own, 60 to 130 MB.
 */
export class BackgroundTokenizer {
  readonly #tokenizer: Tokenizer;
  readonly #options: BackgroundTokenizerOptions;
  readonly #thread: AskedThread<EncodeRequest, EncodeReply>;

  /**
   * @param tokenizer for what is encoded here
   * @param data the files that it was made of
   */
  constructor(tokenizer: Tokenizer, data: () => EncodingData, options: BackgroundTokenizerOptions = {}) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#thread = new AskedThread({
      program: new URL("../tokenizer/encoding_worker.ts", import.meta.url),
      workerData: data,
      idleMs: options.idleMs ?? 300_000,
      task: "encode a text",
      name: "encoding",
    });
  }

  /**
   * Token ids of each text, as {@linkcode Tokenizer.encode} gives them.
   * @throws {TokenizerError} when the tokenizer fails or takes too long
   * @throws {BackendUnavailableError} when the thread cannot start, or dies
   * @throws the signal's reason
   */
  async encode(texts: readonly TextPart[], signal?: AbortSignal): Promise<readonly (readonly number[])[]> {
    const length = texts.reduce((sum, { text }) => sum + text.length, 0);
    const { hereLength = 8192, limitMs = 2000 + Math.ceil(length / 25) } = this.#options;
    if (length <= hereLength) {
      return texts.map(({ text, continuesText }) => this.#tokenizer.encode(text, { continuesText }));
    }
    const tooLate = () => new TokenizerError(`${length} characters took longer than ${limitMs} ms`);
    const reply = await this.#thread.ask(texts, { limitMs, tooLate, signal });
    if (reply.type === "failed") throw new TokenizerError(reply.message);
    if (reply.type === "ids") return reply.ids.map((ids) => Array.from(ids));
    throw new BackendUnavailableError(`Cannot encode a text: the encoding thread said "${reply.type}" twice`);
  }

  /** Ends the thread. Not to be called while something is encoded. */
  close(): Promise<void> {
    return this.#thread.close();
  }
}
