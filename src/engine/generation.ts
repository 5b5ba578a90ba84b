import type { Backend, ForwardRow } from "../backend/backend.ts";
import type { Sampler } from "../sampling/sampler.ts";
import type { Session } from "../session/session.ts";
import type { Detokenizer } from "../tokenizer/detokenizer.ts";
import type { StopStrings } from "../tokenizer/stop_strings.ts";
import type { FinishReason, GenerateEvent } from "./generate_request.ts";

/** What an admitted request runs on. Everything here belongs to this generation alone, but for the backend. */
export interface GenerationParts {
  backend: Backend;
  promptIds: readonly number[];
  /** Busy for this generation. Its `kv` holds `cachedIds`, a proper prefix of `promptIds`. */
  session: Session;
  useCache: boolean;
  maxTokens: number;
  /** Tokens the model's context holds. */
  contextLength: number;
  /** Ids that end the answer; empty to go on past them. */
  stopIds: ReadonlySet<number>;
  sampler: Sampler;
  detokenizer: Detokenizer;
  stops: StopStrings;
  /** Prompt tokens a forward pass takes at most: how soon a cancelled prefill stops. */
  prefillChunk: number;
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
  readonly #startedAt = performance.now();
  readonly #abort = new AbortController();
  readonly #settled = Promise.withResolvers<void>();
  #state: "new" | "running" | "settled" = "new";
  #inPass = false;
  #generated: number[] = [];
  #text = "";

  constructor(parts: GenerationParts, signal?: AbortSignal) {
    this.#parts = parts;
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
    if (this.#inPass) this.#parts.session.ending = this.#settled.promise;
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
    let logits = await this.#prefill();
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
      if (stopped) finishReason = "stop";
      else if (
        this.#generated.length === maxTokens || this.promptTokens + this.#generated.length === contextLength
      ) finishReason = "length";
      else logits = await this.#decode(id);
    }
    if (finishReason === "length") tail = this.#take(detokenizer.flush()).text;
    const held = stops.flush();
    this.#text += held;
    this.#parts.onComplete(this.#generated, this.#text);
    yield {
      type: "end",
      text: tail + held,
      finishReason,
      usage: {
        promptTokens: this.promptTokens,
        cachedTokens: this.cachedTokens,
        completionTokens: this.#generated.length,
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

  /** Evaluates what of the prompt is not cached; f32 `[vocab_size]` logits after its last token. */
  async #prefill(): Promise<Float32Array> {
    const { promptIds, prefillChunk, session, useCache } = this.#parts;
    if (!useCache) return await this.#forwardAll();
    let logits: Float32Array | undefined;
    while (session.cachedIds.length < promptIds.length) {
      const start = session.cachedIds.length;
      const chunk = promptIds.slice(start, start + prefillChunk);
      logits = await this.#forwardCached(chunk, start + chunk.length === promptIds.length ? "last" : "none");
    }
    return logits!;
  }

  #decode(id: number): Promise<Float32Array> {
    return this.#parts.useCache ? this.#forwardCached([id], "last") : this.#forwardAll();
  }

  /** Appends `tokenIds` to the session's KV. The pass itself is never torn: what it evaluated is what we count. */
  async #forwardCached(tokenIds: readonly number[], logits: "none" | "last"): Promise<Float32Array> {
    const { backend, session } = this.#parts;
    session.kv ??= backend.createKvCache();
    const result = await this.#pass({ cache: session.kv, tokenIds, logits });
    for (const id of tokenIds) session.cachedIds.push(id);
    this.#abort.signal.throwIfAborted();
    return result;
  }

  /** Evaluates the whole sequence from its first token, in one pass that leaves nothing behind. */
  async #forwardAll(): Promise<Float32Array> {
    const result = await this.#pass({ tokenIds: [...this.#parts.promptIds, ...this.#generated], logits: "last" });
    this.#abort.signal.throwIfAborted();
    return result;
  }

  async #pass(row: ForwardRow): Promise<Float32Array> {
    this.#abort.signal.throwIfAborted();
    this.#inPass = true;
    try {
      const [result] = await this.#parts.backend.forward([row]);
      return result!.logits;
    } finally {
      this.#inPass = false;
    }
  }

  #settle(): void {
    if (this.#state === "settled") return;
    this.#state = "settled";
    const { session, onSettled } = this.#parts;
    // After an error inside a pass the cache may hold tokens that were never counted.
    if (session.kv && session.kv.length > session.cachedIds.length) session.kv.truncate(session.cachedIds.length);
    session.ending = undefined;
    onSettled();
    this.#settled.resolve();
    if (!this.#abort.signal.aborted) this.#abort.abort();
  }
}
