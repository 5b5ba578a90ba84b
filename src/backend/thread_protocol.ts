/** Messages between a backend and its inference thread. */
import type { RowResult } from "./backend.ts";
import type { SessionRow } from "./model_session.ts";

/** To the thread. Requests are answered in order; `free` and `close` have none. */
export type Request =
  | { type: "run"; rows: readonly SessionRow[] }
  | { type: "free"; cacheId: number }
  /** The last one: the thread ends. */
  | { type: "close" };

/** From the thread. */
export type Reply =
  | { type: "progress"; step: string; fraction: number }
  /** `detail` tells people how KV and weights are kept, `kind` tells the backend. */
  | { type: "ready"; kind: string; detail: string; heapBytes: number; threads: number; rowsPerPass: number }
  | { type: "results"; results: RowResult[] }
  /** `name` tells which class of `errors.ts` it was. */
  | { type: "error"; name: string; message: string };
