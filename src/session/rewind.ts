import { InvalidRequestError } from "../errors.ts";
import type { Transcript, TranscriptDelta, TurnRecord } from "./transcript.ts";

/** Where to go back to: the end of a turn, 0 for before the first, or so many tokens. */
export type RewindTarget = { toTurn: number } | { toToken: number };

/**
 * The delta that takes a transcript back. A token inside an answer keeps the part of the answer before it.
 * @param decode text of sampled ids
 * @throws {InvalidRequestError} when there is no such turn or token, or the token is inside a prompt of messages
 */
export function rewindDelta(
  transcript: Transcript,
  target: RewindTarget,
  decode: (ids: readonly number[]) => string,
): TranscriptDelta {
  const { turns, ids, messages } = transcript;
  if ("toTurn" in target) {
    const { toTurn } = target;
    if (!(Number.isInteger(toTurn) && toTurn >= 0 && toTurn <= turns.length)) {
      throw new InvalidRequestError(`Cannot rewind to turn ${toTurn}: wanted 0 to ${turns.length}`, "to_turn");
    }
    return keepTurns(turns, toTurn);
  }
  const { toToken } = target;
  if (!(Number.isInteger(toToken) && toToken >= 0 && toToken <= ids.length)) {
    throw new InvalidRequestError(`Cannot rewind to token ${toToken}: wanted 0 to ${ids.length}`, "to_token");
  }
  const whole = turns.filter((turn) => turn.end <= toToken).length;
  const delta = keepTurns(turns, whole);
  const cut = turns[whole];
  if (!cut || delta.keep.ids === toToken) return delta;

  const record: TurnRecord = { ...cut, end: toToken, finishReason: "rewound" };
  if (transcript.kind === "ids") record.replyStart = Math.min(cut.replyStart, toToken);
  else if (toToken < cut.replyStart) {
    throw new InvalidRequestError(
      `Cannot rewind to token ${toToken}: it is inside a message of turn ${whole + 1}, ` +
        `wanted ${delta.keep.ids} for the turn before or ${cut.replyStart} and more for a part of its answer`,
      "to_token",
    );
  } else {
    delta.keep.messages = cut.messagesEnd - 1;
    const { role } = messages[cut.messagesEnd - 1]!;
    const content = decode(ids.slice(cut.replyStart, toToken));
    delta.messages = [{ role, content, span: [cut.replyStart, toToken] }];
  }
  delta.keep.ids = toToken;
  delta.turns = [record];
  return delta;
}

function keepTurns(turns: readonly TurnRecord[], count: number): TranscriptDelta {
  const last = turns[count - 1];
  const keep = { ids: last?.end ?? 0, messages: last?.messagesEnd ?? 0, turns: count };
  return { keep, ids: [], messages: [], turns: [] };
}
