import { OutOfMemoryError } from "../errors.ts";
import type { Sampler } from "../sampling/sampler.ts";
import type { Detokenizer } from "../tokenizer/detokenizer.ts";
import type { StopStrings } from "../tokenizer/stop_strings.ts";
import type { FinishReason, GenerateEvent, Timings } from "./generate_request.ts";
import type { CacheForecast, CacheReport } from "./cache_report.ts";
import { Sequence, type SequenceParts } from "./sequence.ts";
import type { Truncation } from "./truncate_messages.ts";
import type { Turn } from "./turn.ts";

/** What an admitted request runs on. Everything here belongs to this generation alone, but for the backend. */
export interface GenerationParts extends Omit<SequenceParts, "signal" | "promptIds" | "kv" | "top"> {
  turn: Turn;
  /** When the call came, on `performance`'s clock. */
  startedAt: number;
  /** Tokens the model's context holds. */
  contextLength: number;
  sampler: Sampler;
  detokenizer: Detokenizer;
  stops: StopStrings;
  /** Called with the new tokens of a prefill, those before them, and how long it took, waiting for others included. */
  onPrefill?(tokens: number, from: number, ms: number): void;
  /** Called once when the generation is over, however it ended, and its session is free. */
  onSettled(): void;
}

/**
 * One running answer: an async-iterable of events, to be read once. Each token is computed when it is asked for.
 * A generation holds its session until it has been read to the end, or `cancel()` was called.
 */
export class Generation implements AsyncIterable<GenerateEvent>, Disposable {
  readonly promptTokens: number;
  /** Prompt tokens whose KV was there already, and the tenant's. */
  readonly cachedTokens: number;
  /** Prompt tokens whose KV came from a public prompt; none of `cachedTokens`. */
  readonly publicTokens: number;
  /** What can be said of the cache before the first pass. */
  readonly forecast: CacheForecast;
  /** What of the conversation was left out of the prompt, if something was. */
  readonly truncated: Truncation | undefined;
  readonly #parts: GenerationParts;
  readonly #sequence: Sequence;
  readonly #abort = new AbortController();
  readonly #settled = Promise.withResolvers<void>();
  #state: "new" | "running" | "ending" | "settled" = "new";
  #generated: number[] = [];
  #text = "";
  #committing = false;
  #prefillMs: number | undefined;

  constructor(parts: GenerationParts, signal?: AbortSignal) {
    this.#parts = parts;
    const { turn } = parts;
    this.#sequence = new Sequence({
      ...parts,
      promptIds: turn.promptIds,
      kv: turn.kv,
      top: parts.sampler.wanted,
      upcoming: (count) => parts.sampler.upcoming(count),
      signal: this.#abort.signal,
    });
    this.promptTokens = turn.promptIds.length;
    this.cachedTokens = turn.reused;
    this.publicTokens = turn.fromPublic;
    this.forecast = turn.forecast;
    this.truncated = turn.truncated;
    for (const other of [signal, turn.superseded]) {
      // The listener goes with the generation, so that a long-lived signal does not collect them.
      other?.addEventListener("abort", () => this.cancel(other.reason), { signal: this.#abort.signal });
    }
  }

  /**
   * Stops the work after the forward pass in flight: at most one prefill chunk, or one token and what follows it there.
   * The reader gets `reason` thrown. Idempotent; does nothing after the end.
   */
  cancel(reason: unknown = new DOMException("Cannot go on: the generation was cancelled", "AbortError")): void {
    if (this.#over || this.#abort.signal.aborted) return;
    this.#abort.abort(reason);
    this.#parts.turn.ending();
    // Nobody may ever read on, so the session cannot wait for the reader.
    if (!this.#sequence.inPass && !this.#committing) this.#settle();
  }

  /** What is known by now of where the time goes. */
  get timings(): Pick<Timings, "queueMs" | "restoreMs"> & Partial<Timings> {
    const { queueMs, restoreMs } = this.#parts.turn;
    return { queueMs, restoreMs, ...(this.#prefillMs !== undefined && { prefillMs: this.#prefillMs }) };
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
    } catch (error) {
      // What a cache is after that, the backend alone knows; and others need the room.
      if (error instanceof OutOfMemoryError) this.#parts.turn.dropKv();
      throw error;
    } finally {
      await this.#settle();
    }
  }

  get #over(): boolean {
    return this.#state === "ending" || this.#state === "settled";
  }

  async *#run(): AsyncGenerator<GenerateEvent, void, undefined> {
    const { turn, startedAt, contextLength, sampler, detokenizer, stops, stopIds, onPrefill } = this.#parts;
    const { maxTokens } = turn;
    const prefillStartedAt = performance.now();
    let logits = await this.#sequence.prefill();
    const prefillMs = this.#prefillMs = performance.now() - prefillStartedAt;
    const from = this.cachedTokens + this.publicTokens;
    onPrefill?.(this.promptTokens - from, from, prefillMs);
    const ttftMs = performance.now() - startedAt;

    let finishReason: FinishReason | undefined = maxTokens === 0 ? "length" : undefined;
    let tail = "";
    while (!finishReason) {
      const moved = this.#sequence.takeMoved();
      if (moved) {
        yield { type: "backend", text: "", name: moved.name, reason: moved.reason };
        this.#abort.signal.throwIfAborted();
      }
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
    const decodeMs = performance.now() - startedAt - ttftMs;
    const cache = await this.#commit(finishReason);
    // The session is free before the reader hears of the end: its next turn may come at once.
    await this.#settle();
    yield {
      type: "end",
      text: tail + held,
      finishReason,
      usage: {
        promptTokens: this.promptTokens,
        cachedTokens: this.cachedTokens,
        completionTokens: this.#generated.length,
        drafts: { ...this.#sequence.drafts },
        cache,
        ...(turn.truncated && { truncated: turn.truncated }),
      },
      timings: { ttftMs, queueMs: turn.queueMs, restoreMs: turn.restoreMs, prefillMs, decodeMs },
    };
  }

  /** From here on the answer is complete: a cancel comes too late. */
  async #commit(finishReason: FinishReason): Promise<CacheReport> {
    const { turn } = this.#parts;
    this.#committing = true;
    await turn.commit({ ids: this.#generated, text: this.#text, finishReason });
    return turn.report();
  }

  /** Runs new text through the stop strings and keeps what is safe to show. */
  #take(text: string): { text: string; stopped: boolean } {
    const { text: safe, stopped } = this.#parts.stops.push(text);
    this.#text += safe;
    return { text: safe, stopped: stopped !== undefined };
  }

  async #settle(): Promise<void> {
    if (this.#over) return await this.#settled.promise;
    this.#state = "ending";
    const { turn, onSettled } = this.#parts;
    this.#sequence.dropDrafts();
    await turn.end({ ids: this.#generated, text: this.#text, finishReason: "aborted" });
    this.#state = "settled";
    onSettled();
    this.#settled.resolve();
    if (!this.#abort.signal.aborted) this.#abort.abort();
  }
}
