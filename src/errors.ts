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

/** Memory that the operation needs is not there. */
export class OutOfMemoryError extends Error {
  override name = "OutOfMemoryError";
}

/** No backend can run here, or the running one died. */
export class BackendUnavailableError extends Error {
  override name = "BackendUnavailableError";
}

/** A model folder or a file in it is missing, damaged, or not of a kind that Hearth runs. */
export class ModelFileError extends Error {
  override name = "ModelFileError";
}
