/** Options of {@linkcode RestartPolicy}. */
export interface RestartOptions {
  /** Starts in a row, none of which came to anything, before a rest. @default 4 */
  most?: number;
  /** Between the first two of them, in milliseconds; each further time it is four times as long. @default 250 */
  pauseMs?: number;
  /** How long a rest is, in milliseconds. @default 30 s */
  restMs?: number;
}

/** When to start again. */
export interface Restart {
  /** How long to wait first, in milliseconds. */
  afterMs: number;
  /** Whether to wait then until somebody wants it: it has failed too often for a try of its own accord. */
  onDemand: boolean;
}

/**
 * How often something that fails is started again: at once, since one failure may be chance; then after pauses that get
 * longer; then not before a rest, and only if it is wanted. So it neither fails for ever in vain nor stays away for good.
 */
export class RestartPolicy {
  readonly most: number;
  readonly #pauseMs: number;
  readonly #restMs: number;
  #starts = 0;

  constructor({ most = 4, pauseMs = 250, restMs = 30_000 }: RestartOptions = {}) {
    this.most = most;
    this.#pauseMs = pauseMs;
    this.#restMs = restMs;
  }

  /** The last start came to something: what was before counts no more. */
  succeeded(): void {
    this.#starts = 0;
  }

  /** Counts a start. */
  next(): Restart {
    if (this.#starts < this.most) {
      const afterMs = this.#starts === 0 ? 0 : this.#pauseMs * 4 ** (this.#starts - 1);
      this.#starts++;
      return { afterMs, onDemand: false };
    }
    this.#starts = 1;
    return { afterMs: this.#restMs, onDemand: true };
  }
}
