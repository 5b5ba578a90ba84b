import type { Backend } from "../backend/backend.ts";
import { BackendUnavailableError, ContextOverflowError, InvalidRequestError } from "../errors.ts";
import { type ModelFolder, stopTokenIds } from "../model/model_folder.ts";
import { Sampler } from "../sampling/sampler.ts";
import { resolveSamplingParams } from "../sampling/sampling_params.ts";
import { reusablePrefix } from "../session/common_prefix.ts";
import { Session } from "../session/session.ts";
import { SessionStore } from "../session/session_store.ts";
import { type ChatMessage, ChatTemplate } from "../tokenizer/chat_template.ts";
import { Detokenizer } from "../tokenizer/detokenizer.ts";
import { StopStrings } from "../tokenizer/stop_strings.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createDraftLength, type PromptLookupMode, RowCost } from "./draft_length.ts";
import { DEFAULT_MAX_TOKENS, type GenerateEvent, type GenerateRequest, MAX_STOP_STRINGS } from "./generate_request.ts";
import { Generation } from "./generation.ts";

/** Options of {@linkcode Engine}. */
export interface EngineOptions {
  /** Memory that all KV caches together may hold, in bytes. */
  kvBudgetBytes: number;
  /** How long an idle session is remembered, in milliseconds. @default 1_800_000 */
  sessionTtlMs?: number;
  /** Prompt tokens per forward pass: cancelling a prefill takes at most one of these. @default 128 */
  prefillChunk?: number;
  /**
   * Prompt lookup: drafts of the answer that are taken from the text before it and checked several a pass. Changes no
   * token. `"auto"` drafts where that is measured to pay, `"always"` wherever there is something to draft; neither
   * does on a backend that is not row-invariant.
   * @default "auto"
   */
  promptLookup?: PromptLookupMode;
}

/**
 * Ties model, tokenizer, sessions and backend together: the one object that HTTP and embedders know.
 * Owns the backend and the sessions; `dispose` ends them.
 */
export class Engine implements AsyncDisposable {
  readonly tokenizer: Tokenizer;
  readonly sessions: SessionStore;
  readonly #prefillChunk: number;
  readonly #promptLookup: PromptLookupMode;
  readonly #rowCost: RowCost = new RowCost();
  readonly #stopIds: ReadonlySet<number>;
  readonly #running = new Set<Generation>();
  #chatTemplate: ChatTemplate | undefined;
  #draining = false;

  /** @param backend must run the same model; the engine disposes it */
  constructor(readonly model: ModelFolder, readonly backend: Backend, options: EngineOptions) {
    this.tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
    this.sessions = new SessionStore({ kvBudgetBytes: options.kvBudgetBytes, ttlMs: options.sessionTtlMs });
    this.#prefillChunk = options.prefillChunk ?? 128;
    this.#promptLookup = backend.info.rowInvariant ? options.promptLookup ?? "auto" : "off";
    this.#stopIds = stopTokenIds(model, this.tokenizer.eosTokenId);
  }

  /**
   * The model's chat template.
   * @throws {ModelFileError} when the model has none
   */
  get chatTemplate(): ChatTemplate {
    return this.#chatTemplate ??= ChatTemplate.fromConfig(this.model.tokenizerConfig, this.tokenizer);
  }

  /**
   * Admits a request: everything that can be refused is refused here, before any work.
   * The generation holds its session until it is read to the end or cancelled.
   * @throws {InvalidRequestError} when a field is wrong
   * @throws {ContextOverflowError} when prompt and `maxTokens` do not fit the context
   * @throws {SessionBusyError} when a turn of the session is running
   * @throws {OutOfMemoryError} when the KV budget is held by running turns
   */
  async start(request: GenerateRequest, options: { signal?: AbortSignal } = {}): Promise<Generation> {
    options.signal?.throwIfAborted();
    if (this.#draining) throw new BackendUnavailableError("Cannot start: the engine is shutting down");
    const { maxTokens, useCache = true, cache = "on", ignoreEos = false, stop = [], skipSpecialTokens = true } =
      request;
    if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 0)) {
      throw new InvalidRequestError(
        `Cannot generate max_tokens ${maxTokens}: wanted an integer of 0 or more`,
        "max_tokens",
      );
    }
    if (stop.length > MAX_STOP_STRINGS || stop.includes("")) {
      throw new InvalidRequestError(`Cannot use stop: wanted at most ${MAX_STOP_STRINGS} non-empty strings`, "stop");
    }
    const params = resolveSamplingParams(request.sampling ?? {});
    const stops = new StopStrings(stop);
    const continuesText = !("messages" in request.prompt);
    const detokenizer = new Detokenizer(this.tokenizer, { skipSpecialTokens, continuesText });

    // A cancelled turn gives way after the pass in flight; a client that comes back at once waits for that.
    const sessionId = useCache && cache === "on" ? request.session?.id : undefined;
    if (sessionId !== undefined) await this.sessions.peek(sessionId)?.ending;
    options.signal?.throwIfAborted();

    const session = this.sessions.begin(sessionId);
    try {
      const promptIds = this.#encode(request, session);
      const limit = this.#admitTokens(promptIds.length, maxTokens);
      if (useCache) this.sessions.reserve(session, this.backend.kvBytes(promptIds.length + limit));
      this.#keepPrefix(session, promptIds);
      const generation = new Generation({
        backend: this.backend,
        promptIds,
        session,
        useCache,
        maxTokens: limit,
        contextLength: this.model.config.contextLength,
        stopIds: ignoreEos ? new Set() : this.#stopIds,
        sampler: new Sampler(params, promptIds),
        detokenizer,
        stops,
        prefillChunk: this.#prefillChunk,
        draftLength: useCache ? createDraftLength(this.#promptLookup, this.#rowCost) : undefined,
        onPass: (rows, ms) => this.#rowCost.record(rows, ms),
        onComplete: (ids, text) => this.#commit(request, session, ids, text),
        onSettled: () => {
          this.#running.delete(generation);
          this.sessions.end(session, request.session?.ttlMs);
        },
      }, options.signal);
      this.#running.add(generation);
      return generation;
    } catch (error) {
      this.sessions.end(session);
      throw error;
    }
  }

  /**
   * {@linkcode Engine.start} and read in one: the events of one answer.
   * @throws what `start` throws, on the first read
   */
  async *generate(request: GenerateRequest, options: { signal?: AbortSignal } = {}): AsyncGenerator<GenerateEvent> {
    yield* await this.start(request, options);
  }

  /** Ids of a request's prompt; in a session, its own answers keep the ids they were sampled with. */
  #encode({ prompt }: GenerateRequest, session: Session): readonly number[] {
    const ids = "ids" in prompt
      ? prompt.ids
      : "text" in prompt
      ? this.tokenizer.encode(prompt.text, { addBos: true })
      : this.chatTemplate.encode(prompt.messages, { replyIds: replyIds(prompt.messages, session) });
    if (ids.length === 0) throw new InvalidRequestError("Cannot continue an empty prompt: send some text", "prompt");
    const { vocabSize } = this.model.config;
    const foreign = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
    if (foreign !== undefined) {
      throw new InvalidRequestError(
        `Cannot use token id ${foreign}: the vocabulary has 0 to ${vocabSize - 1}`,
        "prompt",
      );
    }
    return ids;
  }

  /** @returns tokens the answer may have */
  #admitTokens(promptTokens: number, maxTokens: number | undefined): number {
    const { contextLength } = this.model.config;
    if (promptTokens + Math.max(maxTokens ?? 1, 0) > contextLength) {
      throw new ContextOverflowError({ promptTokens, maxTokens, contextLength });
    }
    return maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, contextLength - promptTokens);
  }

  #keepPrefix(session: Session, promptIds: readonly number[]): void {
    if (session.kv?.lost) session.dropKv();
    const keep = reusablePrefix(session.cachedIds, promptIds);
    session.kv?.truncate(keep);
    session.cachedIds.length = keep;
  }

  #commit({ prompt }: GenerateRequest, session: Session, ids: readonly number[], text: string): void {
    session.turns++;
    // A stop string may have cut the text inside a token: then these ids are not what the text says.
    if (!("messages" in prompt) || this.tokenizer.decode(ids) !== text) return;
    session.replies.set(prompt.messages.filter(isReply).length, { text, ids });
  }

  /** Whether `drain` was called: no new generation starts. */
  get draining(): boolean {
    return this.#draining;
  }

  /**
   * Lets running generations end, but no new ones start. What still runs after `graceMs` is cancelled:
   * its reader gets a {@linkcode BackendUnavailableError}.
   */
  async drain(graceMs: number): Promise<void> {
    this.#draining = true;
    const settled = Promise.all([...this.#running].map((generation) => generation.settled));
    const timer = setTimeout(() => {
      const reason = new BackendUnavailableError("Cannot finish the answer: the server is shutting down");
      for (const generation of this.#running) generation.cancel(reason);
    }, graceMs);
    await settled;
    clearTimeout(timer);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.sessions[Symbol.dispose]();
    await this.backend[Symbol.asyncDispose]();
  }
}

const isReply = (message: ChatMessage) => message.role === "assistant";

/** Stored ids of the assistant messages that come back word for word, by message index. */
function replyIds(messages: readonly ChatMessage[], session: Session): Map<number, readonly number[]> {
  const known = new Map<number, readonly number[]>();
  let ordinal = 0;
  messages.forEach((message, index) => {
    if (!isReply(message)) return;
    const stored = session.replies.get(ordinal++);
    if (stored?.text === message.content) known.set(index, stored.ids);
  });
  return known;
}
