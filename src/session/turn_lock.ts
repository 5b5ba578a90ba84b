import { SessionBusyError, TurnSupersededError } from "../errors.ts";

/** What a turn does when another of its session is running: fail, wait for it, or end it. */
export type OnBusy = "reject" | "queue" | "supersede";

/** The right to change a session, until `release`. */
export class Hold {
  readonly #abort = new AbortController();
  readonly #onRelease: () => void;
  #released = false;
  /** Whether the turn was cancelled and only finishes its last pass or write: the next one waits for it. */
  ending = false;

  /** @param kind a turn, or work of the store between turns, which everybody waits for */
  constructor(readonly kind: "turn" | "work", onRelease: () => void) {
    this.#onRelease = onRelease;
  }

  /** Aborted when a newer turn supersedes this one. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  supersede(reason: Error): void {
    this.#abort.abort(reason);
  }

  /** Idempotent. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    this.#onRelease();
  }
}

interface Waiter {
  supersedes: boolean;
  take(hold: Hold): void;
  fail(reason: unknown): void;
}

/** Options of {@linkcode TurnLock.acquire}. */
export interface AcquireOptions {
  /** @default "reject" */
  onBusy?: OnBusy;
  /** Stops waiting. */
  signal?: AbortSignal;
}

/** One turn at a time. Who waits goes in order of arrival; who supersedes goes first. */
export class TurnLock {
  readonly #sessionId: string;
  #holder: Hold | undefined;
  #waiting: Waiter[] = [];

  constructor(sessionId: string) {
    this.#sessionId = sessionId;
  }

  /** Whether a turn is running, or waits to. */
  get busy(): boolean {
    return this.#holder?.kind === "turn" || this.#waiting.length > 0;
  }

  /** Whether nobody waits for it. */
  get lonely(): boolean {
    return this.#waiting.length === 0;
  }

  /** Whether nobody holds it or waits for it. */
  get free(): boolean {
    return this.#holder === undefined && this.#waiting.length === 0;
  }

  /** Holds it for work between turns, if nobody has it or waits for it. */
  tryWork(): Hold | undefined {
    return this.free ? this.#grant("work") : undefined;
  }

  /**
   * Waits for work between turns to end, for a cancelled turn to end, and for others as `onBusy` says.
   * @throws {SessionBusyError} when a turn is running or waits, and `onBusy` is `"reject"`
   * @throws {TurnSupersededError} when a newer turn superseded this one before it began
   * @throws the signal's reason
   */
  async acquire({ onBusy = "reject", signal }: AcquireOptions = {}): Promise<Hold> {
    signal?.throwIfAborted();
    const holder = this.#holder;
    if (!holder) return this.#grant("turn");
    const running = (holder.kind === "turn" && !holder.ending) || this.#waiting.length > 0;
    if (running && onBusy === "reject") throw new SessionBusyError(this.#sessionId);

    const { promise, resolve, reject } = Promise.withResolvers<Hold>();
    const waiter: Waiter = { supersedes: onBusy === "supersede", take: resolve, fail: reject };
    const leave = () => {
      this.#waiting = this.#waiting.filter((other) => other !== waiter);
      reject(signal!.reason);
    };
    signal?.addEventListener("abort", leave, { once: true });
    if (running && waiter.supersedes) this.#supersede(waiter);
    else this.#waiting.push(waiter);
    try {
      return await promise;
    } finally {
      signal?.removeEventListener("abort", leave);
    }
  }

  #supersede(waiter: Waiter): void {
    const reason = new TurnSupersededError(this.#sessionId);
    for (const other of this.#waiting) if (other.supersedes) other.fail(reason);
    this.#waiting = [waiter, ...this.#waiting.filter((other) => !other.supersedes)];
    if (this.#holder!.kind === "turn") this.#holder!.supersede(reason);
  }

  #grant(kind: Hold["kind"]): Hold {
    const hold = new Hold(kind, () => this.#next());
    this.#holder = hold;
    return hold;
  }

  #next(): void {
    this.#holder = undefined;
    this.#waiting.shift()?.take(this.#grant("turn"));
  }
}
