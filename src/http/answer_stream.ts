import { InvalidRequestError, StreamOffsetLostError } from "../errors.ts";
import { type Frame, FrameRing } from "./frame_ring.ts";

/** An answer that was admitted. */
export interface OpenedAnswer {
  /** Headers of the response, as far as they are known by now. */
  headers: Record<string, string>;
  /** The body; each piece is computed when it is asked for. Returns whether the answer is complete. */
  pieces: AsyncIterator<Frame, boolean>;
}

/** When the last reader leaves before the end: stop, or go on without one. */
export type OnDisconnect = "cancel" | "continue";

/** How much a stream keeps, and for how long. */
export interface StreamLimits {
  /** Bytes kept behind the slowest reader, to resume from. @default 1 MiB */
  keepBytes?: number;
  /** Bytes made ahead of the slowest reader, or of the one that left last. @default 1 MiB */
  aheadBytes?: number;
  /** How long a stream that cannot go on waits for a reader before it is cancelled, in milliseconds. @default 60_000 */
  windowMs?: number;
}

/** Options of {@linkcode AnswerStream}. */
export interface AnswerStreamOptions extends StreamLimits {
  /** Not to be guessed. */
  id: string;
  tenant: string;
  /** The session that it is a turn of. */
  sessionId: string | undefined;
  onDisconnect: OnDisconnect;
  contentType: string;
  /**
   * Admits the answer.
   * @param signal cancels it, before and after
   * @param onCommit to be called once a session has the turn or a part of it, also where this rejects
   */
  open(signal: AbortSignal, onCommit: () => void): Promise<OpenedAnswer>;
}

/** One reader of an {@linkcode AnswerStream}. `leave` when it is gone, or has all it wanted. */
export interface StreamReader extends AsyncIterator<string, void> {
  leave(): void;
}

interface Position {
  /** Number of the frame that it takes next. */
  at: number;
}

/**
 * One answer and its readers. Frames are made when the foremost reader asks for them, and kept, so that others may
 * begin earlier. A frame that a reader has yet to take is never dropped: where one falls behind by `aheadBytes`, all
 * wait for it. When the last one leaves, the answer is cancelled, or goes on until it is `aheadBytes` ahead of it.
 */
export class AnswerStream {
  readonly id: string;
  readonly tenant: string;
  readonly sessionId: string | undefined;
  readonly contentType: string;
  readonly #options: Omit<AnswerStreamOptions, "open"> & Required<StreamLimits>;
  readonly #ring = new FrameRing();
  readonly #readers = new Set<Position>();
  readonly #abort = new AbortController();
  readonly #over = Promise.withResolvers<boolean>();
  /** What admits the answer, and then what makes it. Let go of when done: each may hold the whole request. */
  #open: AnswerStreamOptions["open"] | undefined;
  #pieces: OpenedAnswer["pieces"] | undefined;
  #headers: Promise<Record<string, string>> | undefined;
  #pull: Promise<void> | undefined;
  #ended: { error?: unknown } | undefined;
  #change = Promise.withResolvers<void>();
  #committed = false;
  /** Where the last reader was when it left. */
  #left = 0;
  #window: ReturnType<typeof setTimeout> | undefined;

  constructor({ open, ...options }: AnswerStreamOptions) {
    this.#open = open;
    this.#options = { keepBytes: 2 ** 20, aheadBytes: 2 ** 20, windowMs: 60_000, ...options };
    ({ id: this.id, tenant: this.tenant, sessionId: this.sessionId, contentType: this.contentType } = options);
  }

  /**
   * Headers of the response. Admits the answer where nobody did.
   * @throws what refuses the answer
   */
  get headers(): Promise<Record<string, string>> {
    return this.#headers ??= this.#admit();
  }

  /** Resolves when no frame comes any more, to whether the answer is complete. */
  get over(): Promise<boolean> {
    return this.#over.promise;
  }

  /** Whether a session has the turn, or a part of it: then it is not to be made again, complete or not. */
  get committed(): boolean {
    return this.#committed;
  }

  /** Whether it was cancelled and only finishes its last pass. */
  get ending(): boolean {
    return this.#abort.signal.aborted && !this.#ended;
  }

  /** Bytes kept. */
  get bytes(): number {
    return this.#ring.bytes + Buffer.byteLength(this.#ring.droppedText);
  }

  /** Keeps so many bytes behind the slowest reader, where it would keep fewer. */
  keepAtLeast(bytes: number): void {
    this.#options.keepBytes = Math.max(this.#options.keepBytes, bytes);
  }

  /** Whether a reader that begins there would get nothing. */
  isOverAt(number: number): boolean {
    return this.#ended !== undefined && number >= this.#ring.next;
  }

  /**
   * Whether there can be a reader from a frame on.
   * @throws {StreamOffsetLostError} when that frame is not kept any more
   * @throws {InvalidRequestError} when it is beyond the next one
   */
  requireFrom(from: number): void {
    const { first, droppedText } = this.#ring;
    if (from < first) throw new StreamOffsetLostError(this.id, from, { first, text: droppedText });
    if (from > this.#ring.next) {
      const had = `stream "${this.id}" has only had ${this.#ring.next}`;
      throw new InvalidRequestError(`Cannot resume at event ${from}: ${had}`, "last-event-id", "invalid_event_id");
    }
  }

  /**
   * A reader from a frame on.
   * @throws what `requireFrom` throws
   */
  read(from = 0): StreamReader {
    this.requireFrom(from);
    const position = { at: from };
    this.#readers.add(position);
    clearTimeout(this.#window);
    return {
      next: () => this.#next(position),
      leave: () => this.#leave(position),
    };
  }

  /** Stops the answer. What it came to is still to be read, with the reason at its end. Idempotent. */
  cancel(reason: unknown = new DOMException("Cannot go on: the client is gone", "AbortError")): void {
    if (this.#ended || this.#abort.signal.aborted) return;
    this.#abort.abort(reason);
    this.#runOn();
  }

  async #next(position: Position): Promise<IteratorResult<string, void>> {
    while (this.#readers.has(position)) {
      const value = this.#ring.get(position.at);
      if (value !== undefined) {
        position.at++;
        this.#changed();
        return { done: false, value };
      }
      if (!this.#ended) {
        if (this.#hasRoom) await this.#makeFrame();
        else await this.#change.promise;
        continue;
      }
      this.#leave(position);
      if ("error" in this.#ended) throw this.#ended.error;
    }
    return { done: true, value: undefined };
  }

  #leave(position: Position): void {
    if (!this.#readers.delete(position)) return;
    if (this.#readers.size === 0) this.#left = position.at;
    this.#changed();
    if (this.#readers.size > 0 || this.#ended) return;
    if (this.#options.onDisconnect === "cancel") this.cancel();
    else this.#runOn();
  }

  /** The frame that everybody has got to. */
  get #floor(): number {
    return this.#readers.size === 0 ? this.#left : Math.min(...[...this.#readers].map(({ at }) => at));
  }

  get #hasRoom(): boolean {
    return this.#ring.bytesFrom(this.#floor) < this.#options.aheadBytes;
  }

  /** Goes on without readers. */
  async #runOn(): Promise<void> {
    const { signal } = this.#abort;
    while (!this.#ended && (signal.aborted || (this.#readers.size === 0 && this.#hasRoom))) await this.#makeFrame();
    if (this.#ended || this.#readers.size > 0) return;
    clearTimeout(this.#window);
    this.#window = setTimeout(() => this.cancel(), this.#options.windowMs);
  }

  #makeFrame(): Promise<void> {
    return this.#pull ??= this.#pullFrame().finally(() => this.#pull = undefined);
  }

  async #pullFrame(): Promise<void> {
    try {
      await this.headers;
      const { done, value } = await this.#pieces!.next();
      if (done) this.#end(value);
      else this.#ring.push(value);
    } catch (error) {
      this.#end(false, { error });
    }
    this.#changed();
  }

  async #admit(): Promise<Record<string, string>> {
    const open = this.#open!;
    this.#open = undefined;
    try {
      const { headers, pieces } = await open(this.#abort.signal, () => this.#committed = true);
      this.#pieces = pieces;
      return headers;
    } catch (error) {
      // It may have failed after it began the answer, which nobody else would end.
      this.#abort.abort(error);
      this.#end(false, { error });
      throw error;
    }
  }

  #end(complete: boolean, ended: { error?: unknown } = {}): void {
    if (this.#ended) return;
    this.#ended = ended;
    this.#pieces = undefined;
    clearTimeout(this.#window);
    this.#over.resolve(complete);
  }

  #changed(): void {
    this.#ring.trim(this.#floor, this.#options.keepBytes);
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}
