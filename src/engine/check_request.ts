import { InvalidRequestError } from "../errors.ts";
import { type GenerateRequest, MAX_STOP_STRINGS } from "./generate_request.ts";
import { turnSession } from "./open_turn.ts";

/**
 * Checks the fields that nothing else is needed for.
 * @throws {InvalidRequestError} naming the first that is wrong
 */
export function checkRequest(request: GenerateRequest): void {
  const { maxTokens, stop = [], session } = request;
  if (maxTokens !== undefined && !(Number.isInteger(maxTokens) && maxTokens >= 0)) {
    throw new InvalidRequestError(
      `Cannot generate max_tokens ${maxTokens}: wanted an integer of 0 or more`,
      "max_tokens",
    );
  }
  if (stop.length > MAX_STOP_STRINGS || stop.includes("")) {
    throw new InvalidRequestError(`Cannot use stop: wanted at most ${MAX_STOP_STRINGS} non-empty strings`, "stop");
  }
  if (request.truncation === "auto") {
    const mode = session?.mode ?? "replay";
    if (mode !== "replay" || !("messages" in request.prompt)) {
      const what = mode === "replay" ? "a prompt that is no messages" : `with session.mode "${mode}"`;
      throw new InvalidRequestError(
        `Cannot truncate ${what}: wanted the whole conversation as messages, which the caller keeps`,
        "truncation",
      );
    }
  }
  if (session && !turnSession(request)) {
    const { mode = "replay", ifTurn } = session;
    const wants = mode !== "replay" ? mode : ifTurn === undefined ? undefined : `hold to session.if_turn ${ifTurn}`;
    if (wants) {
      throw new InvalidRequestError(`Cannot ${wants} without the cache: the session is not used then`, "cache");
    }
  }
}
