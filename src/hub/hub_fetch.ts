import { setTimeout as sleep } from "node:timers/promises";
import { DownloadError } from "../errors.ts";
import type { HubSettings } from "./hub_settings.ts";
import { type AnswerLimits, readAnswer } from "./read_answer.ts";

/** Options of {@linkcode hubFetch}. */
export interface HubFetchOptions {
  /** Requests of one call, the first one included. @default 5 */
  attempts?: number;
  /** Wait before the second attempt, in milliseconds; doubles each time. @default 1000 */
  backoffMs?: number;
  /** Longest `Retry-After` to wait for, in milliseconds. @default 120000 */
  maxRetryAfterMs?: number;
  /** How long an answer's headers may take, in milliseconds. @default 30000 */
  timeoutMs?: number;
  signal?: AbortSignal;
}

const MAX_REDIRECTS = 5;
const TRY_AGAIN: ReadonlySet<number> = new Set([429, 500, 502, 503, 504]);

/**
 * A `fetch` for one hub. It sends the token to that hub only, wherever redirects lead; waits and tries again where
 * the hub is busy or the connection fails; and refuses to begin anywhere else, or as anybody else, since the hub's own
 * answers name URLs. Other statuses are the caller's.
 * @param whole answers are read whole, within these limits, as a part of the request. @default they are the caller's
 * @throws {DownloadError} when it stays busy or cannot be reached; at once when no header can have the token
 */
export function hubFetch(
  { endpoint, token }: HubSettings,
  options: HubFetchOptions = {},
  whole?: AnswerLimits,
): typeof fetch {
  const { attempts = 5, backoffMs = 1000, maxRetryAfterMs = 120_000, timeoutMs = 30_000 } = options;
  const origin = new URL(endpoint).origin;
  // A runtime's own message about such a header shows it.
  if (token && !/^[!-~]+$/.test(token)) {
    throw new DownloadError(
      'Cannot use HF_TOKEN="…", or the token that is saved: it has white space or other than ASCII in it',
    );
  }

  const once = async (url: URL, init: RequestInit): Promise<Response> => {
    for (let hops = 0;; hops++) {
      const headers = new Headers(init.headers);
      headers.delete("authorization");
      if (token && url.origin === origin) headers.set("authorization", `Bearer ${token}`);
      // Bytes are counted and hashed as they are stored.
      headers.set("accept-encoding", "identity");
      const response = await withTimeout(
        timeoutMs,
        [init.signal, options.signal],
        (signal) => fetch(url, { ...init, headers, signal, redirect: "manual" }),
      );
      const location = response.headers.get("location");
      if (response.status < 300 || response.status > 399 || location === null) {
        return whole ? await readAnswer(response, whole) : response;
      }
      await response.body?.cancel();
      const next = new URL(location, url);
      requireNobody(next, url.pathname);
      if (hops === MAX_REDIRECTS) throw new DownloadError(`Cannot get ${url.pathname}: more than ${hops} redirects`);
      if (next.protocol !== "https:" && next.protocol !== url.protocol) {
        throw new DownloadError(`Cannot get ${url.pathname}: redirected to ${next.protocol}, wanted https:`);
      }
      url = next;
    }
  };

  const all = async (input: RequestInfo | URL, init: RequestInit = {}): Promise<Response> => {
    const url = new URL(input instanceof Request ? input.url : input);
    if (url.origin !== origin) throw new DownloadError(`Cannot get ${url}: wanted a URL of ${origin}`);
    requireNobody(url, url.pathname);
    for (let attempt = 1;; attempt++) {
      let waitMs = backoffMs * 2 ** (attempt - 1);
      try {
        const response = await once(url, init);
        if (!TRY_AGAIN.has(response.status)) return response;
        await response.body?.cancel();
        waitMs = Math.max(waitMs, retryAfterMs(response.headers.get("retry-after")));
        if (attempt >= attempts || waitMs > maxRetryAfterMs) {
          const later = waitMs > maxRetryAfterMs
            ? `; it asks to wait ${Math.ceil(waitMs / 1000)} s`
            : "; try again later";
          throw new DownloadError(`Cannot get ${url.pathname}: the hub answered ${response.status}${later}`);
        }
      } catch (cause) {
        if (cause instanceof DownloadError || init.signal?.aborted || options.signal?.aborted) throw cause;
        if (attempt >= attempts) {
          throw new DownloadError(
            `Cannot reach the hub at ${origin}: ${(cause as Error).message}; see HF_ENDPOINT and the network`,
            { cause },
          );
        }
      }
      await sleep(waitMs, undefined, { signal: options.signal });
    }
  };
  // Runtimes hang functions of their own on fetch (Bun's preconnect); nobody calls those here.
  return all as typeof fetch;
}

/** A URL with a name and password in it would send them as `Authorization`, in place of the token. */
function requireNobody({ username, password }: URL, path: string): void {
  if (username || password) {
    throw new DownloadError(`Cannot get ${path}: sent to a URL with a user or password in it, wanted one without`);
  }
}

/** Seconds or a date; 0 for none. https://www.rfc-editor.org/rfc/rfc9110#field.retry-after */
function retryAfterMs(header: string | null): number {
  if (header === null) return 0;
  const seconds = Number(header);
  const ms = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(header) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}

/** Bounds the time until `start` resolves, and not what follows: a body may take hours. */
async function withTimeout<T>(
  ms: number,
  signals: readonly (AbortSignal | null | undefined)[],
  start: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(new Error(`no answer within ${ms / 1000} s`)), ms);
  try {
    return await start(AbortSignal.any([late.signal, ...signals.filter((signal) => signal != null)]));
  } finally {
    clearTimeout(timer);
  }
}
