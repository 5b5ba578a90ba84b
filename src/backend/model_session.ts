import type { BackendStats, Draw, Follow, LogitsWanted, RowResult } from "./backend.ts";

/** One row of a forward pass, as a session runs it. */
export interface SessionRow {
  /** KV to read and append to; absent for a row without a cache. */
  cacheId: number | undefined;
  /** Tokens of the cache that count; what it holds beyond them is overwritten. */
  start: number;
  tokenIds: readonly number[];
  logits: LogitsWanted;
  hiddenStates: boolean;
  /** As in `ForwardRow`. */
  top: number | undefined;
  /** As in `ForwardRow`. */
  ahead?: number;
  /** As in `ForwardRow`. */
  draw?: Draw;
  /** As in `ForwardRow`. */
  follow?: Follow;
  /** Layers to look into. */
  inspect: readonly number[];
}

/** A loaded model with the KV caches that belong to it. Lives in the inference thread. */
export interface ModelSession {
  /** What computes, where it is not the CPU: a GPU's name. */
  readonly device?: string;
  /** How KV is kept, for people. */
  readonly detail: string;
  /** Bytes of WASM memory, weights and KV; 0 where that cannot be told. */
  readonly heapBytes: number;
  /** KV memory that there can be, in bytes; absent where that cannot be told. */
  readonly kvRoomBytes?: number;
  /** Rows that one pass takes at most. */
  readonly rowsPerPass: number;
  /**
   * One pass. No two rows have the same cache.
   * @returns one result a row, in order
   * @throws {OutOfMemoryError} when KV memory runs out; the caches keep their earlier tokens
   */
  run(rows: readonly SessionRow[]): Promise<RowResult[]>;
  /** Gives a cache's memory back; nothing happens when there is none. */
  freeCache(cacheId: number): void;
  /**
   * Makes `toId` a cache of the first `length` tokens of `cacheId`, which has them.
   * @throws {OutOfMemoryError} where it copies, and KV memory runs out
   */
  forkCache(cacheId: number, toId: number, length: number): void | Promise<void>;
  /** How KV is taken and given. */
  readonly kv: WholeKv | PartedKv;
  stats(): BackendStats;
  /** Ends what runs beside this thread, where anything does. No pass follows. */
  close?(): Promise<void>;
}

/** KV that goes in one piece. */
export interface WholeKv {
  readonly unit?: undefined;
  /** The KV of the first `length` tokens of a cache. */
  export(cacheId: number, length: number): Uint8Array<ArrayBuffer> | Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Makes `cacheId` a cache of `length` tokens, of what `export` gave.
   * @throws {RangeError} when the bytes are not so many tokens'
   * @throws {OutOfMemoryError} when KV memory runs out
   */
  import(cacheId: number, length: number, bytes: Uint8Array<ArrayBuffer>): void | Promise<void>;
}

/** KV that goes in parts, each a multiple of `unit` bytes. */
export interface PartedKv {
  readonly unit: number;
  /** Bytes of the KV of so many tokens. */
  byteLength(tokens: number): number;
  /** Fills `part` with what the KV of the first `length` tokens has from byte `at` on. */
  read(cacheId: number, length: number, at: number, part: Uint8Array): void;
  /**
   * Makes `cacheId` a cache of `length` tokens with the part at byte 0, and fills in the part at byte `at`.
   * @throws {OutOfMemoryError} when KV memory runs out
   */
  write(cacheId: number, length: number, at: number, part: Uint8Array): void;
}

/** Which positions of a row get logits. */
export function logitsPositions(wanted: LogitsWanted, tokens: number): number[] {
  if (wanted === "none") return [];
  return wanted === "last" ? [tokens - 1] : Array.from({ length: tokens }, (_, i) => i);
}

/** @throws {RangeError} when so many bytes are not those of `length` tokens' KV */
export function checkKvBytes(byteLength: number, length: number, wanted: number): void {
  if (byteLength === wanted) return;
  throw new RangeError(`Cannot import KV of ${length} tokens: ${byteLength} bytes, wanted ${wanted}`);
}
