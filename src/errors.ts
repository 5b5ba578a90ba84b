/**
 * Every error class of the project. Built-ins (`TypeError`, `RangeError`) report misuse of the library;
 * the classes here are for what a caller can act on. HTTP status codes are chosen in `http/error_response.ts`.
 *
 * Messages read "Cannot <action>: <what came>, <what was wanted>".
 */

/** Input that can never work as sent. */
export class InvalidRequestError extends Error {
  override name = "InvalidRequestError";
  /**
   * @param message what came and what was wanted
   * @param param the request field at fault, as the caller spelled it; `null` when no single field is
   * @param code a stable machine-readable reason
   */
  constructor(
    message: string,
    readonly param: string | null = null,
    readonly code: string | null = null,
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The request names a model that this process does not serve. */
export class ModelNotFoundError extends Error {
  override name = "ModelNotFoundError";
  constructor(readonly model: string, readonly served: string) {
    super(`Cannot use model "${model}": this server has "${served}"; leave "model" out or send "default"`);
  }
}

/** Token counts behind a {@linkcode ContextOverflowError}. */
export interface ContextCounts {
  /** Tokens in the prompt as it would be evaluated. */
  promptTokens: number;
  /** Tokens the caller asked to generate, if it did. */
  maxTokens: number | undefined;
  /** Tokens the model's context holds. */
  contextLength: number;
}

/** Prompt and requested output do not fit the model's context. Thrown before any prefill. */
export class ContextOverflowError extends Error {
  override name = "ContextOverflowError";
  constructor(readonly counts: ContextCounts) {
    const { promptTokens, maxTokens, contextLength } = counts;
    const asked = maxTokens === undefined ? "" : ` and ${maxTokens} tokens to generate`;
    super(
      `Cannot fit the request: ${promptTokens} prompt tokens${asked}, the context holds ${contextLength}; ` +
        `shorten the prompt${maxTokens === undefined ? "" : " or lower max_tokens"}`,
    );
  }
}

/** A second turn was started on a session whose turn is still running. */
export class SessionBusyError extends Error {
  override name = "SessionBusyError";
  constructor(readonly sessionId: string) {
    super(`Cannot start a turn: session "${sessionId}" is generating; wait for that turn to end or cancel it`);
  }
}

/** No such session of this tenant: it never was. */
export class SessionNotFoundError extends Error {
  override name = "SessionNotFoundError";
  constructor(readonly sessionId: string) {
    super(`Cannot find session "${sessionId}": wanted one that was created or has had a turn`);
  }
}

/** Why a session that was there is not any more, or cannot be read. */
export type GoneReason = "deleted" | "expired" | "evicted" | "unreadable";

/** The session was there once and cannot go on. */
export class SessionGoneError extends Error {
  override name = "SessionGoneError";
  /** @param detail what is known beyond the reason */
  constructor(readonly sessionId: string, readonly reason: GoneReason, detail?: string) {
    super(`Cannot go on with session "${sessionId}": it is ${reason}${detail ? `, ${detail}` : ""}`);
  }
}

/** A session of that name is there already. */
export class SessionExistsError extends Error {
  override name = "SessionExistsError";
  constructor(readonly sessionId: string) {
    super(`Cannot make session "${sessionId}": there is one; delete it first or choose another id`);
  }
}

/** The tenant has as many sessions as it may, and none is forgotten to make room for another. */
export class SessionLimitError extends Error {
  override name = "SessionLimitError";
  constructor(readonly sessionId: string, readonly limit: number) {
    super(`Cannot make session "${sessionId}": ${limit} are kept already, the most there may be; delete one first`);
  }
}

/** `ifTurn` names another turn than the session's last. */
export class TurnMismatchError extends Error {
  override name = "TurnMismatchError";
  readonly code = "turn_mismatch";
  /** @param turn turns that the session has; @param wanted what the request expected */
  constructor(readonly sessionId: string, readonly turn: number, readonly wanted: number) {
    super(`Cannot start a turn: session "${sessionId}" is at turn ${turn}, wanted ${wanted}; read it again`);
  }
}

/** Another turn of the session took the place of this one, as it asked. */
export class TurnSupersededError extends Error {
  override name = "TurnSupersededError";
  constructor(readonly sessionId: string) {
    super(`Cannot finish the turn: a newer turn of session "${sessionId}" superseded it`);
  }
}

/** An `Idempotency-Key` that came with another request before. */
export class IdempotencyMismatchError extends Error {
  override name = "IdempotencyMismatchError";
  constructor(readonly key: string) {
    super(`Cannot use Idempotency-Key "${key}": it came with another request, wanted a new key or the same body`);
  }
}

/** No such stream of this tenant, or its time to resume is over. */
export class StreamNotFoundError extends Error {
  override name = "StreamNotFoundError";
  constructor(readonly streamId: string) {
    super(`Cannot find stream "${streamId}": wanted one that runs, or ended a short while ago`);
  }
}

/** Where a stream can be gone on with. */
export interface StreamOffset {
  /** Oldest event that is kept. */
  first: number;
  /** Text of the answer in all events before it. */
  text: string;
}

/** A stream cannot be read from there: it is not kept any more. */
export class StreamOffsetLostError extends Error {
  override name = "StreamOffsetLostError";
  /** @param wanted event to begin at; @param kept where it can go on, `undefined` when nothing is kept */
  constructor(readonly streamId: string, readonly wanted: number, readonly kept?: StreamOffset) {
    const lost = kept ? `events before ${kept.first} are not kept any more` : "it is over and gone; ask anew";
    super(`Cannot resume stream "${streamId}" at event ${wanted}: ${lost}`);
  }
}

/** What is wrong with a capsule. */
export type CapsuleErrorCode =
  | "snapshot_corrupt"
  | "snapshot_version"
  | "snapshot_model_mismatch"
  | "snapshot_too_large";

/** A capsule that cannot be imported. Every session is as before. */
export class CapsuleError extends Error {
  override name = "CapsuleError";
  constructor(readonly code: CapsuleErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}

/** A turn could not be written to disk. It was rolled back. */
export class StorageError extends Error {
  override name = "StorageError";
}

/** Memory that the operation needs is not there. */
export class OutOfMemoryError extends Error {
  override name = "OutOfMemoryError";
}

/** No backend can run here, or the running one died. */
export class BackendUnavailableError extends Error {
  override name = "BackendUnavailableError";
}

/** The model has no chat template, or one that can't be parsed, does not end, or makes more of messages than is meant. */
export class ChatTemplateError extends Error {
  override name = "ChatTemplateError";
  /** @param why no prompt came of the messages */
  constructor(why: string, options?: ErrorOptions) {
    super(`Cannot format messages: ${why}; send a prompt instead`, options);
  }
}

/** The model's tokenizer fails with a text, or does not come to its end. */
export class TokenizerError extends Error {
  override name = "TokenizerError";
  /** @param why no ids came of the text */
  constructor(why: string, options?: ErrorOptions) {
    super(`Cannot encode a text with the model's tokenizer: ${why}`, options);
  }
}

/** A model folder or a file in it is missing, damaged, or not of a kind that Hearth runs. */
export class ModelFileError extends Error {
  override name = "ModelFileError";
}

/** A model cannot be got from its hub, or what came is not what the hub announced. */
export class DownloadError extends Error {
  override name = "DownloadError";
}
