/** Messages between a backend and its inference thread. */
import type { BackendStats, RowResult } from "./backend.ts";
import type { HelperMessage } from "./helper_threads.ts";
import type { SessionRow } from "./model_session.ts";

/** To the thread. Requests are answered in order; `fork`, `free`, `helper` and `close` have no answer. */
export type Request =
  | { type: "run"; rows: readonly SessionRow[] }
  /** Makes `toId` a cache of the first `length` tokens of `cacheId`. */
  | { type: "fork"; cacheId: number; toId: number; length: number }
  /**
   * The KV of the first `length` tokens as bytes, from byte `at` on as many as fit `buffer`; all of them without one. A
   * buffer, no view of one: in Deno 2.9 a thread takes 0.1 s a megabyte for a view, because its `node:worker_threads`
   * looks into every property of a message for ports.
   */
  | { type: "export"; cacheId: number; length: number; at: number; buffer: ArrayBuffer | undefined }
  /** Makes `cacheId` a cache of what `export` gave: `count` bytes of `buffer`, `at` bytes after the first. */
  | {
    type: "import";
    cacheId: number;
    length: number;
    at: number;
    buffer: ArrayBuffer;
    count: number;
    last: boolean;
  }
  | { type: "stats" }
  | { type: "free"; cacheId: number }
  /** What a helper said; of no request. */
  | { type: "helper"; said: HelperMessage }
  /** The last one: the thread ends. */
  | { type: "close" };

/** From the thread. */
export type Reply =
  | { type: "progress"; step: string; fraction: number }
  /** For the helpers. */
  | { type: "tell"; message: unknown }
  /** `detail` tells people how KV and weights are kept, `kind` tells the backend. */
  | {
    type: "ready";
    kind: string;
    detail: string;
    device: string | undefined;
    heapBytes: number;
    kvRoomBytes: number | undefined;
    threads: number;
    rowsPerPass: number;
    /** As many bytes of KV may be taken at a time; `undefined` where it is all or nothing. */
    kvUnit: number | undefined;
  }
  /** The last one: the thread ends, for a reason that no request has to do with. */
  | { type: "failed"; message: string }
  | { type: "results"; results: RowResult[] }
  | { type: "exported"; buffer: ArrayBuffer; count: number; last: boolean }
  | { type: "imported"; buffer: ArrayBuffer }
  | { type: "stats"; stats: BackendStats }
  /** `name` tells which class of `errors.ts` it was. */
  | { type: "error"; name: string; message: string };
