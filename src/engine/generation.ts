import type { Sampler } from "../sampling/sampler.ts";
import type { Detokenizer } from "../tokenizer/detokenizer.ts";
import type { StopStrings } from "../tokenizer/stop_strings.ts";
import type { FinishReason, GenerateEvent } from "./generate_request.ts";
import { Sequence, type SequenceParts } from "./sequence.ts";

/** What an admitted request runs on. Everything here belongs to this generation alone, but for the backend. */
export interface GenerationParts extends Omit<SequenceParts, "signal"> {
  maxTokens: number;
  /** Tokens the model's context holds. */
  contextLength: number;
  sampler: Sampler;
  detokenizer: Detokenizer;
  stops: StopStrings;
  /** Called once, with the ids of a complete answer and its text, before the end event. */
  onComplete(ids: readonly number[], text: string): void;
  /** Called once when the generation is over, however it ended. */
  onSettled(): void;
}

/**
 * One running answer: an async-iterable of events, to be read once. Each token is computed when it is asked for.
 * A generation holds its session until it has been read to the end, or `cancel()` was called.
 */
export class Generation implements AsyncIterable<GenerateEvent>, Disposable {
  readonly promptTokens: number;
  /** Prompt tokens whose KV was there already. */
  readonly cachedTokens: number;
  readonly #parts: GenerationParts;
  readonly #sequence: Sequence;
  readonly #startedAt = performance.now();
  readonly #abort = new AbortController();
  readonly #settled = Promise.withResolvers<void>();
  #state: "new" | "running" | "settled" = "new";
  #generated: number[] = [];
  #text = "";

  constructor(parts: GenerationParts, signal?: AbortSignal) {
    this.#parts = parts;
    this.#sequence = new Sequence({ ...parts, signal: this.#abort.signal });
    this.promptTokens = parts.promptIds.length;
    this.cachedTokens = parts.session.cachedIds.length;
    // The listener goes with the generation, so that a long-lived signal does not collect them.
    signal?.addEventListener("abort", () => this.cancel(signal.reason), { signal: this.#abort.signal });
  }

  /**
   * Stops the work after the forward pass in flight, at most one token or one prefill chunk.
   * The reader gets `reason` thrown. Idempotent; does nothing after the end.
   */
  cancel(reason: unknown = new DOMException("Cannot go on: the generation was cancelled", "AbortError")): void {
    if (this.#state === "settled" || this.#abort.signal.aborted) return;
    this.#abort.abort(reason);
    if (this.#sequence.inPass) this.#parts.session.ending = this.#settled.promise;
    // Nobody may ever read on, so the session cannot wait for the reader.
    else this.#settle();
  }

  /** Resolves when the generation is over, however it ended, and its session is free. */
  get settled(): Promise<void> {
    return this.#settled.promise;
  }

  [Symbol.dispose](): void {
    this.cancel();
  }

  /** @throws {TypeError} when read a second time */
  async *[Symbol.asyncIterator](): AsyncGenerator<GenerateEvent, void, undefined> {
    this.#abort.signal.throwIfAborted();
    if (this.#state !== "new") throw new TypeError("Cannot read a generation twice: it is a stream");
    this.#state = "running";
    try {
      yield* this.#run();
    } finally {
      this.#settle();
    }
  }

  async *#run(): AsyncGenerator<GenerateEvent, void, undefined> {
    const { maxTokens, contextLength, sampler, detokenizer, stops, stopIds } = this.#parts;
    const prefillStartedAt = performance.now();
    let logits = await this.#sequence.prefill();
    const prefillMs = performance.now() - prefillStartedAt;
    const ttftMs = performance.now() - this.#startedAt;

    let finishReason: FinishReason | undefined = maxTokens === 0 ? "length" : undefined;
    let tail = "";
    while (!finishReason) {
      const { id, logprob } = sampler.sample(logits);
      if (stopIds.has(id)) {
        finishReason = "stop";
        tail = this.#take(detokenizer.flush()).text;
        break;
      }
      this.#generated.push(id);
      const { text, stopped } = this.#take(detokenizer.push(id));
      yield { type: "token", id, text, logprob };
      this.#abort.signal.throwIfAborted();
      const room = Math.min(maxTokens, contextLength - this.promptTokens) - this.#generated.length;
      if (stopped) finishReason = "stop";
      else if (room === 0) finishReason = "length";
      else logits = await this.#sequence.decode(id, room - 1);
    }
    if (finishReason === "length") tail = this.#take(detokenizer.flush()).text;
    const held = stops.flush();
    this.#text += held;
    this.#sequence.dropDrafts();
    this.#parts.onComplete(this.#generated, this.#text);
    yield {
      type: "end",
      text: tail + held,
      finishReason,
      usage: {
        promptTokens: this.promptTokens,
        cachedTokens: this.cachedTokens,
        completionTokens: this.#generated.length,
        drafts: { ...this.#sequence.drafts },
      },
      timings: { ttftMs, prefillMs, decodeMs: performance.now() - this.#startedAt - ttftMs },
    };
  }

  /** Runs new text through the stop strings and keeps what is safe to show. */
  #take(text: string): { text: string; stopped: boolean } {
    const { text: safe, stopped } = this.#parts.stops.push(text);
    this.#text += safe;
    return { text: safe, stopped: stopped !== undefined };
  }

  #settle(): void {
    if (this.#state === "settled") return;
    this.#state = "settled";
    const { session, onSettled } = this.#parts;
    this.#sequence.dropDrafts();
    session.ending = undefined;
    onSettled();
    this.#settled.resolve();
    if (!this.#abort.signal.aborted) this.#abort.abort();
  }
}
