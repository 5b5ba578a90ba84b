import { createHash } from "node:crypto";
import type { Context } from "hono";
import { InvalidRequestError, StreamOffsetLostError } from "../errors.ts";
import {
  AnswerStream,
  type AnswerStreamOptions,
  type OnDisconnect,
  type StreamLimits,
  type StreamReader,
} from "./answer_stream.ts";
import { bodyStream } from "./body_stream.ts";
import { parseEventId } from "./event_id.ts";
import { IdempotencyKeys, type IdempotencyOptions } from "./idempotency_keys.ts";
import { StreamStore } from "./stream_store.ts";
import type { AppEnv } from "./tenants.ts";

/** Options of {@linkcode Answers}. */
export interface AnswersOptions {
  /** A stream that is silent for so many milliseconds sends an SSE comment. @default 10_000 */
  pingMs?: number;
  /** What streams keep to be resumed from. */
  streams?: StreamLimits;
  /** What is kept of requests with an `Idempotency-Key`. */
  idempotency?: IdempotencyOptions;
}

/** A request that is answered by tokens. */
export interface AnswerCall {
  /** Of the answer; not to be guessed. */
  id: string;
  contentType: string;
  session: { id: string } | undefined;
  onDisconnect: OnDisconnect;
  /** Admits it, as {@linkcode AnswerStreamOptions.open}. */
  open: AnswerStreamOptions["open"];
}

export const EVENT_STREAM = "text/event-stream; charset=utf-8";

const MAX_KEY_LENGTH = 255;

/** Answers on their way: joins requests that are one, and outlives the connections that read them. */
export class Answers {
  readonly streams: StreamStore;
  readonly #keys: IdempotencyKeys;
  readonly #options: AnswersOptions;

  constructor(options: AnswersOptions = {}) {
    this.#options = options;
    this.streams = new StreamStore(options.streams);
    this.#keys = new IdempotencyKeys(options.idempotency);
  }

  /**
   * The response to a request, or to the one with the same `Idempotency-Key` before.
   * @throws what `call.open` throws
   * @throws {IdempotencyMismatchError} when the key came with another request
   * @throws {StreamOffsetLostError} when it is to go on from an event that is not kept
   */
  async respond(c: Context<AppEnv>, call: AnswerCall): Promise<Response> {
    const key = c.req.header("idempotency-key");
    if (key !== undefined && !(key.length > 0 && key.length <= MAX_KEY_LENGTH)) {
      throw new InvalidRequestError(
        `Cannot use an Idempotency-Key of ${key.length} characters: wanted 1 to ${MAX_KEY_LENGTH}`,
        "idempotency-key",
      );
    }
    const tenant = c.get("tenant");
    const fingerprint = key === undefined ? "" : await fingerprintOf(c);
    const find = () => key === undefined ? undefined : this.#keys.find(tenant, key, fingerprint);
    let before = find();
    // Whether that one stays is not clear yet. From the last look to `add` below nothing may come between.
    for (; before?.ending; before = find()) await before.over;
    const from = key === undefined ? 0 : eventAfterLast(c, before);
    const stream = before ?? this.#begin(tenant, call);
    const reader = stream.read(from);
    if (key !== undefined && !before) this.#keys.add(key, fingerprint, stream);
    return await this.#send(c, stream, reader, before ? { "idempotent-replayed": "true" } : {});
  }

  /**
   * The rest of a stream, from the event after `Last-Event-ID` or from its first. To HEAD, what GET has above it.
   * @throws {StreamNotFoundError} | {StreamOffsetLostError}
   */
  async resume(c: Context<AppEnv>, id: string): Promise<Response> {
    const stream = this.streams.get(c.get("tenant"), id);
    const from = eventAfterLast(c, stream);
    // 204 tells an EventSource to stop asking.
    if (stream.isOverAt(from)) return c.body(null, 204);
    if (c.req.method === "HEAD") {
      // A body is dropped unread then, and its reader would hold the answer without ever taking a piece, or leaving.
      stream.requireFrom(from);
      return c.body(null, 200, headersOf(stream, await stream.headers));
    }
    return await this.#send(c, stream, stream.read(from));
  }

  /** Forgets what is kept of a session's answers. */
  forget(tenant: string, sessionId: string): void {
    this.streams.forget(tenant, sessionId);
    this.#keys.forget(tenant, sessionId);
  }

  #begin(tenant: string, { session, ...call }: AnswerCall): AnswerStream {
    const stream = new AnswerStream({ ...this.#options.streams, ...call, tenant, sessionId: session?.id });
    if (call.contentType === EVENT_STREAM) this.streams.add(stream);
    return stream;
  }

  async #send(
    c: Context<AppEnv>,
    stream: AnswerStream,
    reader: StreamReader,
    extra: Record<string, string> = {},
  ): Promise<Response> {
    const { signal } = c.req.raw;
    const leave = () => reader.leave();
    // A client may go before there is a body to cancel.
    if (signal.aborted) leave();
    signal.addEventListener("abort", leave, { once: true });
    let headers: Record<string, string>;
    try {
      headers = await stream.headers;
    } catch (error) {
      leave();
      throw error;
    }
    const everyMs = this.#options.pingMs ?? 10_000;
    const body = bodyStream(reader, {
      onCancel: leave,
      ...(isEvents(stream) && { keepAlive: { everyMs, comment: ": ping\n\n" } }),
    });
    return c.body(body, 200, { ...headersOf(stream, headers), ...extra });
  }
}

const isEvents = ({ contentType }: AnswerStream) => contentType === EVENT_STREAM;

/** Headers of a response, where the answer has these. */
function headersOf(stream: AnswerStream, headers: Record<string, string>): Record<string, string> {
  return {
    "content-type": stream.contentType,
    ...(isEvents(stream) && { "cache-control": "no-cache", "x-accel-buffering": "no", "x-stream-id": stream.id }),
    ...headers,
  };
}

/** What has to be equal in two requests of one key. */
async function fingerprintOf({ req }: Context<AppEnv>): Promise<string> {
  const parts = [req.path, req.header("x-session-id") ?? "", await req.text()];
  return createHash("sha256").update(JSON.stringify(parts)).digest("hex");
}

/** The event that a client wants first. */
function eventAfterLast({ req }: Context<AppEnv>, stream: AnswerStream | undefined): number {
  const header = req.header("last-event-id");
  if (header === undefined) return 0;
  const { streamId, number } = parseEventId(header);
  // Another answer in its place would not go on where the client is.
  if (streamId !== stream?.id) throw new StreamOffsetLostError(streamId, number + 1);
  return number + 1;
}
