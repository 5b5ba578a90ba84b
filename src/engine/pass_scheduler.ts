import type { Backend, BackendInfo, ForwardRow, RowResult } from "../backend/backend.ts";
import { OutOfMemoryError } from "../errors.ts";
import { eventLoopTurn } from "../host/event_loop.ts";

/** What a pass needs of a backend. */
export interface PassBackend extends Pick<Backend, "forward"> {
  readonly info: Pick<BackendInfo, "rowInvariant">;
}

/** Options of {@linkcode PassScheduler}. */
export interface PassSchedulerOptions {
  /** Rows of more tokens than this are prefill: a pass takes one of them at most. @default 16 */
  decodeTokens?: number;
  /** Called after each pass that had decode rows only, with how many tokens it evaluated. */
  onDecodePass?(tokens: number, ms: number): void;
}

interface Waiting {
  row: ForwardRow;
  resolve(result: RowResult): void;
  reject(reason: unknown): void;
  /** Called when its pass begins: from then on it cannot be withdrawn. */
  begun(): void;
}

/** Of the last pass's time, how much may be spent on waiting for its rows to come again. */
const PATIENCE = 0.1;

/**
 * Continuous batching: rows that wait while a pass runs share the next one. Every decode row that waits takes part, so
 * all streams go at one speed; of the prefill chunks only the one that has waited longest, so a long prompt delays a
 * stream by a chunk at most. A stream whose reader is slow just does not ask, and the others go on without it.
 *
 * After a pass its rows usually come again within microseconds, each with its next token: the scheduler lets them
 * arrive before it begins, or every other pass would run half empty.
 *
 * Only on a row-invariant backend do rows share a pass: elsewhere company would change a row's bits.
 */
export class PassScheduler {
  readonly #backend: PassBackend;
  readonly #options: PassSchedulerOptions;
  readonly #waiting: Waiting[] = [];
  #running = false;
  #streams = 0;

  constructor(backend: PassBackend, options: PassSchedulerOptions = {}) {
    this.#backend = backend;
    this.#options = options;
  }

  /** Sequences that took part in the last pass or waited behind it. */
  get streams(): number {
    return this.#streams;
  }

  /**
   * Runs a row in one of the next passes.
   * @throws what the backend throws for this row, and the signal's reason when it aborts before the pass begins
   */
  forward(row: ForwardRow, signal?: AbortSignal): Promise<RowResult> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const withdraw = () => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal!.reason);
      };
      const begun = () => signal?.removeEventListener("abort", withdraw);
      const waiting: Waiting = { row, resolve, reject, begun };
      signal?.addEventListener("abort", withdraw);
      this.#waiting.push(waiting);
      if (!this.#running) this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) {
      const pass = this.#take();
      for (const { begun } of pass) begun();
      const startedAt = performance.now();
      const followed = await this.#forward(pass);
      const ms = (performance.now() - startedAt) / (1 + followed);
      const tokens = pass.reduce((sum, { row }) => sum + row.tokenIds.length, 0);
      if (!pass.some(({ row }) => this.#isPrefill(row))) this.#options.onDecodePass?.(tokens, ms);
      this.#streams = pass.length + this.#waiting.length;
      if (this.#streams > 1) await this.#gather(this.#streams, PATIENCE * ms);
    }
    this.#running = false;
  }

  /** Takes the rows of the next pass out of the queue. */
  #take(): Waiting[] {
    if (!this.#backend.info.rowInvariant) return this.#waiting.splice(0, 1);
    const pass: Waiting[] = [];
    let prefill = false;
    for (const waiting of this.#waiting.splice(0)) {
      const isPrefill = this.#isPrefill(waiting.row);
      if (isPrefill && prefill) {
        this.#waiting.push(waiting);
        continue;
      }
      prefill ||= isPrefill;
      pass.push(waiting);
    }
    return pass;
  }

  /** @returns steps of decode that followed */
  async #forward(pass: readonly Waiting[]): Promise<number> {
    const lost = pass.some(({ row }) => row.cache?.lost);
    // In company, which may have come since a row was asked for, none waits for a guess, or is refused for its memory.
    const rows = pass.map(({ row }) => this.#streams > 1 ? { ...row, follow: undefined } : row);
    try {
      const results = await this.#backend.forward(rows);
      pass.forEach(({ resolve }, i) => resolve(results[i]!));
      return results[0]?.followed?.length ?? 0;
    } catch (error) {
      // The caches are as before. One row that cannot be held, or whose KV went with a thread before, is no reason to
      // refuse the others.
      const divide = pass.length > 1 && (lost || error instanceof OutOfMemoryError || error instanceof RangeError);
      if (divide) {
        for (const waiting of pass) await this.#forward([waiting]);
        return 0;
      }
      for (const { reject } of pass) reject(error);
      // Whoever is refused for memory lets go of what it has: the next row is not to be refused for want of that.
      if (error instanceof OutOfMemoryError) await eventLoopTurn();
      return 0;
    }
  }

  /** Lets so many rows arrive, for so long at most: readers of streams run, sample and ask again. */
  async #gather(rows: number, ms: number): Promise<void> {
    const until = performance.now() + ms;
    while (this.#waiting.length < rows && performance.now() < until) await eventLoopTurn();
  }

  #isPrefill({ tokenIds }: ForwardRow): boolean {
    return tokenIds.length > (this.#options.decodeTokens ?? 16);
  }
}
