import type { Backend } from "../backend/backend.ts";
import { BackendUnavailableError, OutOfMemoryError } from "../errors.ts";
import { type ModelFolder, modelIdentity, stopTokenIds } from "../model/model_folder.ts";
import { Sampler } from "../sampling/sampler.ts";
import { resolveSamplingParams } from "../sampling/sampling_params.ts";
import { CapsuleKey } from "../session/capsule_key.ts";
import type { ParkingPolicy } from "../session/kv_rates.ts";
import { KvTiers } from "../session/kv_tiers.ts";
import { PublicPrefixes } from "../session/public_prefixes.ts";
import type { SessionFiles } from "../session/session_files.ts";
import { SessionStore } from "../session/session_store.ts";
import { BackgroundTokenizer } from "../tokenizer/background_tokenizer.ts";
import { ChatTemplate } from "../tokenizer/chat_template.ts";
import { Detokenizer } from "../tokenizer/detokenizer.ts";
import { EncodedTexts } from "../tokenizer/encoded_texts.ts";
import { StopStrings } from "../tokenizer/stop_strings.ts";
import { Tokenizer } from "../tokenizer/tokenizer.ts";
import { checkRequest } from "./check_request.ts";
import { createDraftLength, type PromptLookupMode, RowCost } from "./draft_length.ts";
import type { GenerateEvent, GenerateRequest } from "./generate_request.ts";
import { Generation } from "./generation.ts";
import { openTurn, type TurnHost, type TurnOptions } from "./open_turn.ts";
import { PassScheduler } from "./pass_scheduler.ts";
import { type PublicPrompt, publicPromptIds } from "./public_prompts.ts";
import { Sessions } from "./sessions.ts";

/** Options of {@linkcode Engine}. */
export interface EngineOptions {
  /** Memory that all KV caches together may hold, in bytes. */
  kvBudgetBytes: number;
  /** Host memory for KV that had to leave the backend, in bytes. @default 0: it is dropped */
  warmBudgetBytes?: number;
  /** Where sessions are kept; the engine disposes it. @default in memory only */
  storage?: SessionFiles;
  /** Disk for parked KV, in bytes, if there is `storage`. @default 0 */
  parkedBudgetBytes?: number;
  /** Whether KV is worth parking. @default what is measured to pay */
  parking?: ParkingPolicy;
  /** Secret that seals exported sessions, 16 characters or more. @default none: they are in the clear */
  sessionKey?: string;
  /** Largest capsule to import, in bytes. @default 256 MiB */
  maxCapsuleBytes?: number;
  /** How long a session is remembered after its last change, in milliseconds. @default half an hour, with `storage` a week */
  sessionTtlMs?: number;
  /** Prompt tokens per forward pass: cancelling a prefill takes at most one of these. @default the backend's */
  prefillChunk?: number;
  /** Longest that the model's chat template may run for one prompt, in milliseconds. @default 2000 */
  templateLimitMs?: number;
  /**
   * Prompt lookup: drafts of the answer that are taken from the text before it and checked several a pass. Changes no
   * token. `"auto"` drafts where that is measured to pay, `"always"` wherever there is something to draft; neither
   * does on a backend that is not row-invariant.
   * @default "auto"
   */
  promptLookup?: PromptLookupMode;
}

/** Options of {@linkcode Engine.start}: `signal` cancels, `onCommit` hears of a turn that stays. */
export type StartOptions = Pick<TurnOptions, "signal" | "onCommit">;

/**
 * Ties model, tokenizer, sessions and backend together: the one object that HTTP and embedders know.
 * Owns the backend and the sessions; its `[Symbol.asyncDispose]` ends them.
 */
export class Engine implements AsyncDisposable {
  readonly tokenizer: Tokenizer;
  /** The sessions and what can be done with them between turns. */
  readonly sessions: Sessions;
  readonly #host: TurnHost;
  readonly #storage: SessionFiles | undefined;
  readonly #prefillChunk: number;
  readonly #promptLookup: PromptLookupMode;
  readonly #rowCost: RowCost = new RowCost();
  readonly #passes: PassScheduler;
  readonly #stopIds: ReadonlySet<number>;
  readonly #running = new Set<Generation>();
  readonly #templateLimitMs: number | undefined;
  #chatTemplate: ChatTemplate | undefined;
  #draining = false;

  /** @param backend must run the same model; the engine disposes it */
  constructor(readonly model: ModelFolder, readonly backend: Backend, options: EngineOptions) {
    this.tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
    this.#storage = options.storage;
    const tiers = new KvTiers(backend, {
      hotBytes: options.kvBudgetBytes,
      warmBytes: options.warmBudgetBytes,
      parkedBytes: options.parkedBudgetBytes,
      files: options.storage,
      parking: options.parking,
    });
    const store = new SessionStore(tiers, { ttlMs: options.sessionTtlMs, journal: options.storage });
    for (const { session, lastAt, parked } of options.storage?.recovered.sessions ?? []) {
      store.recover(session, lastAt, parked);
    }
    const { vocabSize, contextLength } = model.config;
    const texts = new BackgroundTokenizer(this.tokenizer, () => ({
      tokenizerJson: JSON.stringify(model.tokenizerJson),
      tokenizerConfig: JSON.stringify(model.tokenizerConfig),
    }));
    const encoder = {
      tokenizer: this.tokenizer,
      texts,
      chatTemplate: () => this.chatTemplate,
      encodedTexts: new EncodedTexts(),
      vocabSize,
      contextLength,
    };
    this.#host = { store, tiers, publicPrefixes: new PublicPrefixes(backend, tiers), backend, encoder };
    this.sessions = new Sessions(this.#host, {
      model: modelIdentity(model),
      variant: backend.info.variant,
      vocabSize,
      contextLength,
      key: options.sessionKey === undefined ? undefined : new CapsuleKey(options.sessionKey),
      maxBytes: options.maxCapsuleBytes ?? 256 * 2 ** 20,
    });
    this.#templateLimitMs = options.templateLimitMs;
    this.#prefillChunk = options.prefillChunk ?? backend.info.prefillTokens ?? 128;
    this.#passes = new PassScheduler(backend, { onDecodePass: (tokens, ms) => this.#rowCost.record(tokens, ms) });
    this.#promptLookup = backend.info.rowInvariant ? options.promptLookup ?? "auto" : "off";
    this.#stopIds = stopTokenIds(model, this.tokenizer.eosTokenId);
  }

  /**
   * The model's chat template.
   * @throws {ChatTemplateError} when the model has none
   */
  get chatTemplate(): ChatTemplate {
    return this.#chatTemplate ??= ChatTemplate.fromConfig(this.model.tokenizerConfig, this.tokenizer, {
      limitMs: this.#templateLimitMs,
    });
  }

  /**
   * Says which prompts are no secret between tenants, in place of those before. The KV of what they begin with is shared
   * by all tenants, where the backend shares memory. It is evaluated here, and again with the first prompt that begins
   * so after it had to make room.
   *
   * Who measures time learns whether such a prompt was in use lately, and nothing of who used it or what followed.
   * @throws {RangeError} when one cannot be used, which says why; nothing has changed
   */
  async publishPrompts(prompts: readonly PublicPrompt[]): Promise<void> {
    const { publicPrefixes, encoder } = this.#host;
    const prefixes: (readonly number[])[] = [];
    for (const [i, prompt] of prompts.entries()) {
      try {
        const ids = await publicPromptIds(prompt, encoder);
        publicPrefixes.requireRoom(ids);
        prefixes.push(ids);
      } catch (error) {
        throw new RangeError(`Cannot use public prompt ${i + 1}: ${(error as Error).message}`, { cause: error });
      }
    }
    publicPrefixes.replace(prefixes);
    if (this.backend.info.kvShares) { for (const ids of prefixes) await this.#evaluate(ids); }
  }

  /**
   * Admits a request: everything that can be refused is refused here, before any work.
   * The generation holds its session until it is read to the end or cancelled.
   * @throws {InvalidRequestError} when a field is wrong
   * @throws {BackendUnavailableError} when the engine is shutting down
   * @throws what {@linkcode openTurn} throws
   */
  async start(request: GenerateRequest, options: StartOptions = {}): Promise<Generation> {
    const startedAt = performance.now();
    options.signal?.throwIfAborted();
    if (this.#draining) throw new BackendUnavailableError("Cannot start: the engine is shutting down");
    checkRequest(request);
    const { useCache = true, ignoreEos = false, stop = [], skipSpecialTokens = true } = request;
    const params = resolveSamplingParams(request.sampling ?? {}, this.model.config.vocabSize);
    const turn = await openTurn(this.#host, request, { params, skipSpecialTokens, ...options });
    const generation = new Generation({
      backend: this.backend,
      passes: this.#passes,
      withRoom: (pass) => this.#host.tiers.withRoom(pass),
      turn,
      startedAt,
      useCache,
      contextLength: this.model.config.contextLength,
      stopIds: ignoreEos ? new Set() : this.#stopIds,
      sampler: new Sampler(params, turn.promptIds),
      detokenizer: new Detokenizer(this.tokenizer, turn.detokenizer),
      stops: new StopStrings(stop),
      prefillChunk: this.#prefillChunk,
      draftLength: useCache ? createDraftLength(this.#promptLookup, this.#rowCost) : undefined,
      onPrefill: (tokens, from, ms) => this.#host.tiers.rates.recordPrefill(tokens, from, ms),
      onSettled: () => this.#running.delete(generation),
    }, options.signal);
    this.#running.add(generation);
    for (const signal of [options.signal, turn.superseded]) if (signal?.aborted) generation.cancel(signal.reason);
    if (this.#draining) generation.cancel(new BackendUnavailableError("Cannot start: the engine is shutting down"));
    return generation;
  }

  /**
   * {@linkcode Engine.start} and read in one: the events of one answer.
   * @throws what `start` throws, on the first read
   */
  async *generate(request: GenerateRequest, options: StartOptions = {}): AsyncGenerator<GenerateEvent> {
    yield* await this.start(request, options);
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
    this.#host.publicPrefixes.replace([]);
    await this.#host.tiers.persist();
    this.#host.store[Symbol.dispose]();
    this.#storage?.[Symbol.dispose]();
    await this.#host.encoder.texts.close();
    await this.backend[Symbol.asyncDispose]();
  }

  /** Evaluates a public prefix that is not held, if there is room for it now. */
  async #evaluate(ids: readonly number[]): Promise<void> {
    const prompt = [...ids, 0];
    if (this.#host.publicPrefixes.offer(prompt)?.tokens === ids.length) return;
    try {
      for await (const _ of this.generate({ prompt: { ids: prompt }, maxTokens: 0 }));
    } catch (error) {
      if (!(error instanceof OutOfMemoryError)) throw error;
    }
  }
}
