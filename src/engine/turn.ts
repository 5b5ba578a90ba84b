import { reusablePrefix } from "../session/common_prefix.ts";
import type { Session } from "../session/session.ts";
import type { SessionKv } from "../session/session_kv.ts";
import type { HeldSession, SessionStore } from "../session/session_store.ts";
import { commonLength, type StoredSampling, type TurnRecord } from "../session/transcript.ts";
import type { DetokenizerOptions } from "../tokenizer/detokenizer.ts";
import type { CacheForecast, CacheReport } from "./cache_report.ts";
import type { ExactReply } from "./exact_reply.ts";
import type { PreparedPrompt } from "./prompt_ids.ts";
import type { Truncation } from "./truncate_messages.ts";

/** What a turn came to. */
export interface Answer {
  /** As they were sampled. */
  ids: readonly number[];
  /** What the reader was shown. */
  text: string;
  finishReason: TurnRecord["finishReason"];
}

/** What a {@linkcode Turn} works on. */
export interface TurnParts {
  store: SessionStore;
  held: HeldSession;
  prompt: PreparedPrompt;
  sampling: StoredSampling;
  /** Prompt tokens whose KV is there, and the tenant's. */
  reused: number;
  /** Those of them that another session had. */
  shared: number;
  /** Prompt tokens whose KV came from a public prompt. */
  fromPublic: number;
  /** Takes the KV of a public prompt from the session, once that has evaluated it. */
  keepPublic: ((session: Session) => Promise<void>) | undefined;
  queueMs: number;
  restoreMs: number;
  /** Lifetime of the session once the turn is committed, in milliseconds; as before when absent. */
  ttlMs: number | undefined;
  forecast: CacheForecast;
  keepPartial: boolean;
  onCommit: (() => void) | undefined;
  /** How its answer becomes text. */
  detokenizer: DetokenizerOptions;
  /** Ids that say what was shown. */
  exactReply(answer: Answer): ExactReply;
}

/**
 * A transaction on a session, from its hold to its release. Until `commit` resolves nothing has changed but which KV is
 * held; after `end` the session is either as before or has one turn more, and its KV is a prefix of its transcript.
 */
export class Turn {
  readonly #parts: TurnParts;
  #state: "open" | "committed" | "ended" = "open";

  constructor(parts: TurnParts) {
    this.#parts = parts;
  }

  get promptIds(): readonly number[] {
    return this.#parts.prompt.ids;
  }

  get maxTokens(): number {
    return this.#parts.prompt.maxTokens;
  }

  /** What of the conversation was left out of the prompt. */
  get truncated(): Truncation | undefined {
    return this.#parts.prompt.truncated;
  }

  /** Prompt tokens whose KV was there, and the tenant's. */
  get reused(): number {
    return this.#parts.reused;
  }

  /** Prompt tokens whose KV came from a public prompt. */
  get fromPublic(): number {
    return this.#parts.fromPublic;
  }

  get detokenizer(): DetokenizerOptions {
    return this.#parts.detokenizer;
  }

  /** What can be said of the cache before the first pass. */
  get forecast(): CacheForecast {
    return this.#parts.forecast;
  }

  get queueMs(): number {
    return this.#parts.queueMs;
  }

  get restoreMs(): number {
    return this.#parts.restoreMs;
  }

  get kv(): SessionKv {
    return this.#session.kv;
  }

  /** Aborted when a newer turn supersedes this one. */
  get superseded(): AbortSignal {
    return this.#parts.held.hold.signal;
  }

  /** Says that it was cancelled and ends as soon as it can: the next turn waits for it. */
  ending(): void {
    this.#parts.held.hold.ending = true;
  }

  /** Gives up the KV, as if it had been evicted. */
  dropKv(): void {
    this.kv.truncate(0);
    this.kv.disposeCache();
  }

  /**
   * Makes the answer part of the session, on disk where there is one.
   * @throws {StorageError} when the disk refuses; the turn can only be rolled back then
   * @throws {Error} when the turn is over: its session may have had others since
   */
  async commit(answer: Answer): Promise<void> {
    if (this.#state !== "open") throw new Error(`Cannot commit a turn that is ${this.#state}`);
    await this.#write(answer);
    this.#state = "committed";
  }

  async #write(answer: Answer): Promise<void> {
    const { store, prompt, sampling } = this.#parts;
    if (this.#session.name !== undefined && !this.#session.closed) {
      const reply = this.#parts.exactReply(answer);
      const replyIds = reply.exact || prompt.messages.length > 0 ? reply.ids : answer.ids;
      const { length } = prompt.ids;
      const said = { role: "assistant", content: answer.text };
      const messages = prompt.messages.length === 0 ? [] : [
        ...prompt.messages,
        reply.exact ? { ...said, span: [length, length + replyIds.length] as [number, number] } : said,
      ];
      const { finishReason } = answer;
      const outcome = { promptIds: prompt.ids, replyIds, messages, finishReason, sampling, at: Date.now() };
      const { ttlMs = this.#session.ttlMs } = this.#parts;
      await store.commit(this.#session, this.#session.transcript.turnDelta(outcome), ttlMs);
      this.#parts.onCommit?.();
    }
  }

  /** What the cache did. Call before `end`. */
  report(): CacheReport {
    const { reused, shared, fromPublic, forecast } = this.#parts;
    this.#cutKv();
    const { kv, turn, name, closed } = this.#session;
    const written = kv.ids.length - reused - fromPublic;
    const bytes = name && closed ? 0 : kv.hotBytes;
    return { reused, shared, fromPublic, written, ...forecast, bytes, turn };
  }

  /**
   * Gives the session back. What was not committed is rolled back, or kept as far as it came, if so asked.
   * Idempotent.
   */
  async end(partial: Answer): Promise<void> {
    if (this.#state === "ended") return;
    const keep = this.#state === "open" && this.#parts.keepPartial && partial.ids.length > 0;
    this.#state = "ended";
    // A disk that refuses leaves the session as before, which is what an aborted turn may do.
    if (keep) await this.#write(partial).catch(() => {});
    const { store, held, keepPublic } = this.#parts;
    if (keepPublic) await keepPublic(held.session);
    this.#cutKv();
    store.end(held);
  }

  get #session(): Session {
    return this.#parts.held.session;
  }

  #cutKv(): void {
    const { kv, transcript, closed } = this.#session;
    // What keeps nothing, or was deleted meanwhile, goes whole: until then it says what was evaluated.
    if (!closed) kv.truncate(commonLength(kv.ids, transcript.ids, (a, b) => a === b));
  }
}

/** Tokens of a prompt whose KV the session has; one is left to evaluate in any case. */
export const reusable = (kv: SessionKv, ids: readonly number[]): number => reusablePrefix(kv.ids, ids);
