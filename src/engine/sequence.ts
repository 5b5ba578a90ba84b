import type {
  Backend,
  BackendInfo,
  Draw,
  Follow,
  ForwardRow,
  LogitsWanted,
  RowResult,
  TopLogits,
} from "../backend/backend.ts";
import { BackendUnavailableError, OutOfMemoryError } from "../errors.ts";
import type { SessionKv } from "../session/session_kv.ts";
import type { DraftLength } from "./draft_length.ts";
import type { PassScheduler } from "./pass_scheduler.ts";
import { PromptLookup } from "./prompt_lookup.ts";

/** What a sequence runs on. */
export interface SequenceParts {
  backend: Pick<Backend, "info" | "createKvCache" | "recover">;
  /** Runs the passes, shared with other sequences. */
  passes: PassScheduler;
  /** Runs a pass, again where giving up others' KV makes room for it. */
  withRoom<T>(pass: () => Promise<T>): Promise<T>;
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
  /** How many of the largest logits are enough; absent for all. */
  top?: number;
  /** How the next `count` tokens will be drawn, where they are. */
  upcoming?(count: number): Draw | undefined;
  signal: AbortSignal;
}

/** f32 `[vocab_size]` after a token, or the best of them; the caller's. */
export type NextLogits = Float32Array | TopLogits;

/** Tokens that were drafted and evaluated: those that the answer then had, and those it had not. */
export interface DraftCounts {
  accepted: number;
  rejected: number;
}

/**
 * The tokens of one answer on their way through the model: prefill, then one decode step a token. Keeps `kv.ids`
 * what its cache is known to hold; while a draft, or a step that followed, is unconfirmed the cache holds more.
 */
export class Sequence {
  readonly drafts: DraftCounts = { accepted: 0, rejected: 0 };
  readonly #parts: SequenceParts;
  /** Ids after the prompt that were evaluated or are being so. */
  readonly #decoded: number[] = [];
  readonly #lookup: PromptLookup | undefined;
  /** Evaluated already, in case they come: ids, and the logits after each. */
  #ahead: { id: number; logits: NextLogits; drafted: boolean }[] = [];
  #inPass = false;
  #movedTo: BackendInfo | undefined;

  constructor(parts: SequenceParts) {
    this.#parts = parts;
    if (parts.draftLength) this.#lookup = new PromptLookup(parts.promptIds);
  }

  /** Whether a forward pass is running or waited for, or what it evaluated not yet counted: the KV is in use. */
  get inPass(): boolean {
    return this.#inPass;
  }

  /**
   * Evaluates what of the prompt is not cached.
   * @returns logits after its last token
   * @throws the signal's reason when aborted, and what the backend throws
   */
  async prefill(): Promise<NextLogits> {
    const { promptIds, prefillChunk, kv, useCache } = this.#parts;
    if (!useCache) return await this.#forwardAll();
    let result: RowResult | undefined;
    while (kv.ids.length < promptIds.length) {
      const start = kv.ids.length;
      const chunk = promptIds.slice(start, start + prefillChunk);
      result = await this.#append(chunk, start + chunk.length === promptIds.length ? "last" : "none");
      this.#confirm(chunk);
    }
    return after(result!, 0, 1);
  }

  /**
   * Evaluates the next token, unless it was evaluated ahead.
   * @param maxAhead tokens that may follow `id` and be evaluated at all
   * @returns logits after `id`
   * @throws the signal's reason when aborted, and what the backend throws
   */
  async decode(id: number, maxAhead: number): Promise<NextLogits> {
    const { useCache } = this.#parts;
    this.#decoded.push(id);
    if (!useCache) return await this.#forwardAll();
    this.#observe(id);
    const [next] = this.#ahead;
    if (next?.id === id) {
      this.#ahead.shift();
      if (next.drafted) this.drafts.accepted++;
      this.#confirm([id]);
      return next.logits;
    }
    this.dropDrafts();
    const draft = this.#draft(maxAhead);
    const drafted = draft.length > 0 ? await this.#appendDraft(id, draft) : undefined;
    const result = drafted ?? await this.#append([id], "last", maxAhead);
    this.#confirm([id]);
    this.#ahead = drafted
      ? draft.map((id, i) => ({ id, logits: after(drafted, i + 1, 1 + draft.length), drafted: true }))
      : (result.followed ?? []).map(({ id, top }) => ({ id, logits: top, drafted: false }));
    return after(result, 0, drafted ? 1 + draft.length : 1);
  }

  /** What it runs on now, once after it had to move. */
  takeMoved(): BackendInfo | undefined {
    const moved = this.#movedTo;
    this.#movedTo = undefined;
    return moved;
  }

  /** Takes back what the cache holds beyond `kv.ids`: drafts, steps that followed, and what a failed pass left. */
  dropDrafts(): void {
    const { cache, ids } = this.#parts.kv;
    this.drafts.rejected += this.#ahead.filter(({ drafted }) => drafted).length;
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

  /** @returns `undefined` where memory is missing: nobody's KV goes for a guess, and no answer fails for one */
  async #appendDraft(id: number, draft: readonly number[]): Promise<RowResult | undefined> {
    try {
      return await this.#append([id, ...draft], "all", 0, (pass) => pass());
    } catch (error) {
      if (error instanceof OutOfMemoryError) return undefined;
      throw error;
    }
  }

  /** The pass itself is never torn: what it evaluated is what we count. */
  async #append(
    tokenIds: readonly number[],
    logits: LogitsWanted,
    ahead = 0,
    withRoom = this.#parts.withRoom,
  ): Promise<RowResult> {
    const { backend, kv, signal } = this.#parts;
    // Cancelled between two passes: the session is free, and may be another turn's by now.
    signal.throwIfAborted();
    kv.cache ??= backend.createKvCache();
    try {
      const stepsAhead = Math.min(ahead, backend.info.stepsAhead ?? 0);
      const draw = stepsAhead > 0 ? this.#parts.upcoming?.(stepsAhead + 1) : undefined;
      return await this.#pass(
        { cache: kv.cache, tokenIds, logits, ahead, draw, follow: this.#follow(ahead) },
        withRoom,
      );
    } catch (error) {
      await this.#move(error);
      return await this.#pass({ cache: kv.cache, tokenIds, logits }, withRoom);
    }
  }

  /** The scheduler leaves them out in company, as it is when the pass begins. */
  #follow(steps: number): Follow | undefined {
    const { top, stopIds } = this.#parts;
    if (steps === 0 || top !== 1) return undefined;
    return { steps, stopIds: [...stopIds] };
  }

  /**
   * Goes on elsewhere after the backend failed, where it can: evaluates again what is known to be held.
   * @throws `error` where it cannot
   */
  async #move(error: unknown): Promise<void> {
    const { backend, kv, prefillChunk } = this.#parts;
    const movedTo = error instanceof BackendUnavailableError ? await backend.recover?.() : undefined;
    if (!movedTo) throw error;
    // Cancelled meanwhile, as in `#append`.
    this.#parts.signal.throwIfAborted();
    const ids = [...kv.ids];
    kv.disposeCache();
    kv.ids.length = 0;
    kv.cache = backend.createKvCache();
    for (let at = 0; at < ids.length; at += prefillChunk) {
      const chunk = ids.slice(at, at + prefillChunk);
      await this.#pass({ cache: kv.cache, tokenIds: chunk, logits: "none" });
      this.#confirm(chunk);
    }
    this.#movedTo = movedTo;
  }

  #confirm(tokenIds: readonly number[]): void {
    this.#inPass = false;
    for (const id of tokenIds) this.#parts.kv.ids.push(id);
    this.#parts.signal.throwIfAborted();
  }

  /** Evaluates the whole sequence from its first token, in one pass that leaves nothing behind. */
  async #forwardAll(): Promise<NextLogits> {
    const result = await this.#pass({ tokenIds: [...this.#parts.promptIds, ...this.#decoded], logits: "last" });
    this.#confirm([]);
    return after(result, 0, 1);
  }

  async #pass(row: ForwardRow, withRoom = this.#parts.withRoom): Promise<RowResult> {
    const { passes, signal, top } = this.#parts;
    signal.throwIfAborted();
    this.#inPass = true;
    try {
      return await withRoom(() => passes.forward({ ...row, top }, signal));
    } catch (error) {
      this.#inPass = false;
      throw error;
    }
  }
}

/** The logits after position `i` of so many. */
function after({ logits, top }: RowResult, i: number, positions: number): NextLogits {
  if (top) return top[i]!;
  const vocabSize = logits.length / positions;
  return logits.subarray(i * vocabSize, (i + 1) * vocabSize);
}
