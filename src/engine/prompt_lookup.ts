/** Tokens by which a place is found again: the longest n-gram that was seen before wins. */
const NGRAMS = [3, 2] as const;

/**
 * Drafts what comes next out of what the text already holds: after the last tokens, what followed them the last
 * time. Costs a few hash lookups a token and no model. After apoorvumang/prompt-lookup-decoding.
 */
export class PromptLookup {
  readonly #ids: number[] = [];
  /** Hash of an n-gram -> index of the token that followed its last occurrence. */
  readonly #followers = new Map<number, number>();

  /** @param ids the prompt */
  constructor(ids: Iterable<number> = []) {
    for (const id of ids) this.push(id);
  }

  /** Appends a token. */
  push(id: number): void {
    // Only now, so that the text's end does not find itself.
    for (const n of NGRAMS) if (this.#ids.length >= n) this.#followers.set(this.#hash(n), this.#ids.length);
    this.#ids.push(id);
  }

  /** @returns at most `max` ids; none where the last tokens are new */
  draft(max: number): number[] {
    for (const n of NGRAMS) {
      const from = this.#ids.length >= n ? this.#followers.get(this.#hash(n)) : undefined;
      if (from === undefined || !this.#sameNgram(n, from)) continue;
      const draft: number[] = [];
      // Where the source runs into the text's end, the draft goes on with itself: a loop.
      for (let i = from; draft.length < max; i++) draft.push(this.#ids[i] ?? draft[i - this.#ids.length]!);
      return draft;
    }
    return [];
  }

  /** Of the last `n` ids. */
  #hash(n: number): number {
    let hash = n << 28;
    for (let i = this.#ids.length - n; i < this.#ids.length; i++) hash = Math.imul(hash ^ this.#ids[i]!, 0x9e3779b1);
    return hash;
  }

  /** Whether the `n` ids before `end` are the last ones; hashes collide. */
  #sameNgram(n: number, end: number): boolean {
    const back = this.#ids.length - end;
    for (let i = end - n; i < end; i++) if (this.#ids[i] !== this.#ids[i + back]) return false;
    return true;
  }
}
