import { DownloadError } from "../errors.ts";
import { formatBytes } from "./transfer_meter.ts";

/** How large an answer that is read whole may be, and how slow. */
export interface AnswerLimits {
  /** Bytes of the body. */
  maxBytes: number;
  /** How long it may be silent, in milliseconds. */
  stallMs: number;
  /** How long all of it may take, in milliseconds. */
  limitMs: number;
}

/** Statuses that have no body. https://fetch.spec.whatwg.org/#null-body-status */
const EMPTY: ReadonlySet<number> = new Set([101, 103, 204, 205, 304]);

/**
 * The same answer with its body here already: whoever parses it waits for nobody, and has no more than `maxBytes`.
 * @throws {DownloadError} when it is larger
 * @throws {Error} when it is too slow, or its connection breaks
 */
export async function readAnswer(
  response: Response,
  { maxBytes, stallMs, limitMs }: AnswerLimits,
): Promise<Response> {
  const { status, statusText, headers } = response;
  const reader = response.body?.getReader();
  const parts: Uint8Array[] = [];
  const late = Promise.withResolvers<never>();
  const fail = (ms: number, what: string) => setTimeout(() => late.reject(new Error(`${what} ${ms / 1000} s`)), ms);
  const all = fail(limitMs, "its answer took longer than");
  try {
    for (let bytes = 0; reader;) {
      const silence = fail(stallMs, "it said nothing for");
      const { value } = await Promise.race([reader.read(), late.promise]).finally(() => clearTimeout(silence));
      if (!value) break;
      bytes += value.length;
      if (bytes > maxBytes) {
        throw new DownloadError(`Cannot use what the hub says: it is longer than ${formatBytes(maxBytes)}`);
      }
      parts.push(value);
    }
  } finally {
    clearTimeout(all);
    // Not awaited: a body that does not come may not end either.
    reader?.cancel().catch(() => {});
  }
  return new Response(EMPTY.has(status) ? null : new Blob(parts as BlobPart[]), { status, statusText, headers });
}
