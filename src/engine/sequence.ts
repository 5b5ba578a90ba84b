import type { Backend, ForwardRow, LogitsWanted } from "../backend/backend.ts";
import type { SessionKv } from "../session/session_kv.ts";
import type { DraftLength } from "./draft_length.ts";
import type { PassScheduler } from "./pass_scheduler.ts";
import { PromptLookup } from "./prompt_lookup.ts";

/** What a sequence runs on. */
export interface SequenceParts {
  backend: Pick<Backend, "createKvCache">;
  /** Runs the passes, shared with other sequences. */
  passes: PassScheduler;
  promptIds: readonly number[];
  /** This sequence's alone. Its cache holds its `ids`, a proper prefix of `promptIds`. */
  kv: SessionKv;
  useCache: boolean;
  /** Prompt tokens a forward pass takes at most: how soon a cancelled prefill stops. */
  prefillChunk: number;
  /** Ids that end the answer: nothing is drafted past one. */
  stopIds: ReadonlySet<number>;
  /** How far to draft the answer out of the prompt; absent: not at all. Needs `useCache` and a row-invariant backend. */
  draftLength?: DraftLength;
  signal: AbortSignal;
}

/** Tokens that were drafted and evaluated: those that the answer then had, and those it had not. */
export interface DraftCounts {
  accepted: number;
  rejected: number;
}

/**
 * The tokens of one answer on their way through the model: prefill, then one decode step a token. Keeps `kv.ids`
 * what its cache is known to hold; while a draft is unconfirmed the cache holds more.
 */
export class Sequence {
  readonly drafts: DraftCounts = { accepted: 0, rejected: 0 };
  readonly #parts: SequenceParts;
  /** Ids after the prompt that were evaluated or are being so. */
  readonly #decoded: number[] = [];
  readonly #lookup: PromptLookup | undefined;
  /** Evaluated already, in case they come: ids, and the logits after each. */
  #ahead: { id: number; logits: Float32Array }[] = [];
  #inPass = false;

  constructor(parts: SequenceParts) {
    this.#parts = parts;
    if (parts.draftLength) this.#lookup = new PromptLookup(parts.promptIds);
  }

  /** Whether a forward pass is running, or waited for: the KV is in use. */
  get inPass(): boolean {
    return this.#inPass;
  }

  /**
   * Evaluates what of the prompt is not cached.
   * @returns f32 `[vocab_size]` logits after its last token; the caller's
   * @throws the signal's reason when aborted, and what the backend throws
   */
  async prefill(): Promise<Float32Array> {
    const { promptIds, prefillChunk, kv, useCache } = this.#parts;
    if (!useCache) return await this.#forwardAll();
    let logits: Float32Array | undefined;
    while (kv.ids.length < promptIds.length) {
      const start = kv.ids.length;
      const chunk = promptIds.slice(start, start + prefillChunk);
      logits = await this.#append(chunk, start + chunk.length === promptIds.length ? "last" : "none");
      this.#confirm(chunk);
    }
    return logits!;
  }

  /**
   * Evaluates the next token, unless a draft had it.
   * @param maxAhead tokens that may follow `id` and be evaluated at all
   * @returns f32 `[vocab_size]` logits after `id`; the caller's
   * @throws the signal's reason when aborted, and what the backend throws
   */
  async decode(id: number, maxAhead: number): Promise<Float32Array> {
    const { useCache } = this.#parts;
    this.#decoded.push(id);
    if (!useCache) return await this.#forwardAll();
    this.#observe(id);
    const [next] = this.#ahead;
    if (next?.id === id) {
      this.#ahead.shift();
      this.drafts.accepted++;
      this.#confirm([id]);
      return next.logits;
    }
    this.dropDrafts();
    const draft = this.#draft(maxAhead);
    const logits = await this.#append([id, ...draft], draft.length > 0 ? "all" : "last");
    this.#confirm([id]);
    const vocabSize = logits.length / (1 + draft.length);
    const after = (i: number) => logits.subarray(i * vocabSize, (i + 1) * vocabSize);
    this.#ahead = draft.map((id, i) => ({ id, logits: after(i + 1) }));
    return after(0);
  }

  /** Takes back what the cache holds beyond `kv.ids`: drafts, and what a failed pass left. */
  dropDrafts(): void {
    const { cache, ids } = this.#parts.kv;
    this.drafts.rejected += this.#ahead.length;
    this.#ahead = [];
    if (cache && !cache.lost && cache.length > ids.length) cache.truncate(ids.length);
  }

  #observe(id: number): void {
    const [guess] = this.#lookup?.draft(1) ?? [];
    if (guess !== undefined) this.#parts.draftLength!.observe(guess === id);
    this.#lookup?.push(id);
  }

  /** Nothing in company: other streams fill the pass with tokens that are sure to be wanted. */
  #draft(max: number): number[] {
    const { draftLength, passes } = this.#parts;
    const length = passes.streams > 1 ? 0 : draftLength?.choose(max) ?? 0;
    const draft = length > 0 ? this.#lookup!.draft(length) : [];
    const end = draft.findIndex((id) => this.#parts.stopIds.has(id));
    return end < 0 ? draft : draft.slice(0, end);
  }

  /** The pass itself is never torn: what it evaluated is what we count. */
  async #append(tokenIds: readonly number[], logits: LogitsWanted): Promise<Float32Array> {
    const { backend, kv } = this.#parts;
    kv.cache ??= backend.createKvCache();
    return await this.#pass({ cache: kv.cache, tokenIds, logits });
  }

  #confirm(tokenIds: readonly number[]): void {
    for (const id of tokenIds) this.#parts.kv.ids.push(id);
    this.#parts.signal.throwIfAborted();
  }

  /** Evaluates the whole sequence from its first token, in one pass that leaves nothing behind. */
  async #forwardAll(): Promise<Float32Array> {
    const result = await this.#pass({ tokenIds: [...this.#parts.promptIds, ...this.#decoded], logits: "last" });
    this.#parts.signal.throwIfAborted();
    return result;
  }

  async #pass(row: ForwardRow): Promise<Float32Array> {
    this.#parts.signal.throwIfAborted();
    this.#inPass = true;
    try {
      const { logits } = await this.#parts.passes.forward(row, this.#parts.signal);
      return logits;
    } finally {
      this.#inPass = false;
    }
  }
}
