/** What {@linkcode StopStrings.push} lets through. */
export interface StopResult {
  /** Text that can no longer be part of a stop string. */
  text: string;
  /** The stop string that was found: `text` ends where it begins, and nothing may follow. */
  stopped?: string;
}

/** Watches a stream of text for strings that end it, and holds back what may be the start of one. */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = "";

  /** @param stops non-empty strings */
  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  push(text: string): StopResult {
    const all = this.#held + text;
    this.#held = "";
    const found = this.#first(all);
    if (found) return { text: all.slice(0, found.at), stopped: found.stop };
    const keep = this.#partial(all);
    this.#held = all.slice(all.length - keep);
    return { text: all.slice(0, all.length - keep) };
  }

  /** Ends the stream. @returns what was held back */
  flush(): string {
    const held = this.#held;
    this.#held = "";
    return held;
  }

  /**
   * The stop string that is complete first, of several the longest: what it finds does not depend on how the stream
   * was cut.
   */
  #first(text: string): { at: number; stop: string } | undefined {
    let first: { at: number; end: number; stop: string } | undefined;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at < 0) continue;
      const end = at + stop.length;
      if (!first || end < first.end || (end === first.end && at < first.at)) first = { at, end, stop };
    }
    return first;
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #partial(text: string): number {
    let longest = 0;
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) longest = length;
      }
    }
    return longest;
  }
}
