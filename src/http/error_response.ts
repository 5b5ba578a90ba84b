import { HTTPException } from "hono/http-exception";
import {
  BackendUnavailableError,
  CapsuleError,
  type CapsuleErrorCode,
  ChatTemplateError,
  ContextOverflowError,
  IdempotencyMismatchError,
  InvalidRequestError,
  ModelNotFoundError,
  OutOfMemoryError,
  SessionBusyError,
  SessionExistsError,
  SessionGoneError,
  SessionLimitError,
  SessionNotFoundError,
  StorageError,
  StreamNotFoundError,
  StreamOffsetLostError,
  TokenizerError,
  TurnMismatchError,
  TurnSupersededError,
} from "../errors.ts";
import { eventId } from "./event_id.ts";

/** The error body of OpenAI's API. Fields beyond the four are ours. */
export interface ErrorBody {
  error: {
    message: string;
    type: string;
    param: string | null;
    code: string | null;
    [extra: string]: unknown;
  };
}

const CAPSULE_STATUS: Readonly<Record<CapsuleErrorCode, number>> = {
  snapshot_corrupt: 400,
  snapshot_version: 400,
  snapshot_model_mismatch: 409,
  snapshot_too_large: 413,
};

/** Seconds after which a client may come back when the server has no room or is not ready. */
const RETRY_AFTER_S = 2;

interface Described {
  status: number;
  body: ErrorBody;
  headers: Record<string, string>;
}

/**
 * The one place where errors become HTTP: status, OpenAI's error body, and retry headers.
 * OpenAI's clients retry 409, 429 and 5xx by themselves unless `x-should-retry` says otherwise.
 */
export function describeError(error: unknown): Described {
  const body = (type: string, code: string | null, param: string | null = null, extra: object = {}): ErrorBody => ({
    error: { message: error instanceof Error ? error.message : String(error), type, param, code, ...extra },
  });
  const retry = { "retry-after": `${RETRY_AFTER_S}`, "retry-after-ms": `${RETRY_AFTER_S * 1000}` };

  if (error instanceof InvalidRequestError) {
    return { status: 400, body: body("invalid_request_error", error.code, error.param), headers: {} };
  }
  if (error instanceof ContextOverflowError) {
    const { promptTokens, maxTokens, contextLength } = error.counts;
    const counts = {
      prompt_tokens: promptTokens,
      max_tokens: maxTokens ?? null,
      context_length: contextLength,
      max_tokens_left: Math.max(0, contextLength - promptTokens),
    };
    return {
      status: 400,
      body: body("invalid_request_error", "context_length_exceeded", "messages", counts),
      headers: {},
    };
  }
  if (error instanceof ModelNotFoundError) {
    return { status: 404, body: body("invalid_request_error", "model_not_found", "model"), headers: {} };
  }
  if (error instanceof SessionBusyError) {
    return {
      status: 409,
      body: body("conflict_error", "session_busy", "session"),
      headers: { "x-should-retry": "false" },
    };
  }
  // A client that sends these again gets the same again, so none is retried.
  const final = { "x-should-retry": "false" };
  if (error instanceof SessionNotFoundError) {
    return { status: 404, body: body("invalid_request_error", "session_not_found", "session"), headers: final };
  }
  if (error instanceof SessionGoneError) {
    return { status: 410, body: body("invalid_request_error", `session_${error.reason}`, "session"), headers: final };
  }
  if (error instanceof SessionExistsError) {
    return { status: 409, body: body("conflict_error", "session_exists", "session"), headers: final };
  }
  if (error instanceof SessionLimitError) {
    const { limit } = error;
    return { status: 429, body: body("insufficient_quota", "session_limit", "session", { limit }), headers: final };
  }
  if (error instanceof TurnMismatchError) {
    const extra = { turn: error.turn };
    return { status: 412, body: body("conflict_error", error.code, "session.if_turn", extra), headers: final };
  }
  if (error instanceof TurnSupersededError) {
    return { status: 409, body: body("conflict_error", "turn_superseded", "session"), headers: final };
  }
  if (error instanceof IdempotencyMismatchError) {
    const param = "idempotency-key";
    return { status: 422, body: body("invalid_request_error", "idempotency_key_reused", param), headers: final };
  }
  if (error instanceof StreamNotFoundError) {
    return { status: 404, body: body("invalid_request_error", "stream_not_found", "stream"), headers: final };
  }
  if (error instanceof StreamOffsetLostError) {
    const { streamId, kept } = error;
    // The text up to there, so that a client loses nothing by going on.
    const extra = kept
      ? { resume_after: eventId(streamId, kept.first - 1), snapshot: kept.text }
      : { resume_after: null, snapshot: null };
    const lost = body("invalid_request_error", "stream_offset_lost", "last-event-id", extra);
    return { status: 410, body: lost, headers: final };
  }
  if (error instanceof CapsuleError) {
    const status = CAPSULE_STATUS[error.code];
    return { status, body: body("invalid_request_error", error.code), headers: final };
  }
  if (error instanceof StorageError) {
    return { status: 507, body: body("server_error", "storage_failed"), headers: final };
  }
  if (error instanceof OutOfMemoryError) {
    return { status: 503, body: body("server_error", "out_of_memory"), headers: retry };
  }
  if (error instanceof BackendUnavailableError) {
    return { status: 503, body: body("server_error", "unavailable"), headers: retry };
  }
  if (error instanceof ChatTemplateError) {
    return { status: 500, body: body("server_error", "chat_template_failed", "messages"), headers: final };
  }
  if (error instanceof TokenizerError) {
    return { status: 500, body: body("server_error", "tokenizer_failed"), headers: final };
  }
  if (error instanceof HTTPException) {
    const type = error.status < 500 ? "invalid_request_error" : "server_error";
    return { status: error.status, body: body(type, null), headers: {} };
  }
  if (error instanceof DOMException && error.name === "AbortError") {
    // Nobody is left to read it; 499 is what nginx logs for a client that closed the connection.
    return { status: 499, body: body("invalid_request_error", "client_closed_request"), headers: {} };
  }
  // Anything else is a bug: its text may hold paths or data, so the client gets none of it.
  const hidden = {
    error: { message: "Internal error; the server's log has it", type: "server_error", param: null, code: null },
  };
  return { status: 500, body: hidden, headers: {} };
}

/** The response for an error that was thrown before one was begun. */
export function errorResponse(error: unknown): Response {
  // A middleware that brought its own response, such as Hono's bearerAuth, has said it all.
  if (error instanceof HTTPException && error.res) return error.getResponse();
  const { status, body, headers } = describeError(error);
  if (status === 500) console.error(error);
  return Response.json(body, { status, headers });
}
