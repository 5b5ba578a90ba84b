/**
 * The KV cache of one sequence: keys and values of every layer for the first `length` tokens.
 * The memory belongs to the backend that made it; the handle is valid until `dispose()`.
 */
export interface KvCache extends Disposable {
  /** Tokens held. Grows by each forward pass. */
  readonly length: number;
  /** Bytes of backend memory reserved, at least `length` tokens' worth; what it shares with a fork counts in both. */
  readonly bytes: number;
  /** Whether its memory went with a backend that failed: only `dispose` makes sense then. */
  readonly lost: boolean;
  /**
   * Forgets every token from `length` on. Moves no data.
   * @throws {RangeError} when `length` is negative, not an integer, or more than is held
   */
  truncate(length: number): void;
  /**
   * A second cache of the first `length` tokens. Where the backend has blocks nothing is copied until one of the two is
   * written; elsewhere it copies, and what does not fit is an `OutOfMemoryError` of the fork's first pass. Not while a
   * pass over this cache runs.
   * @default all of them
   * @throws {RangeError} as `truncate`
   * @throws {TypeError} after `dispose`
   */
  fork(length?: number): KvCache;
  /** Gives the memory back. Idempotent; later calls on the handle throw `TypeError`. */
  dispose(): void;
}
