import type { Session } from "../session/session.ts";
import type { KvState } from "../session/session_kv.ts";
import { commonLength, sameWords } from "../session/transcript.ts";
import type { PreparedPrompt } from "./prompt_ids.ts";

/**
 * Why no more was reused.
 *
 * - `none`: all that the prompt shares with the session was there.
 * - `off`: the call has no session, or no cache.
 * - `first_use`: the session has no turn yet.
 * - `restored`: all was there, once it was brought back from host memory or disk.
 * - `restore_failed`: KV that was parked could not be read back, or was not what had been parked.
 * - `evicted`: the prompt shares more with the transcript than there was KV for.
 * - `edited_at_message`: a message differs from the transcript's; `firstDifference` says which.
 * - `truncated`: turns that the transcript has were left out of the prompt, to make it fit.
 * - `token_mismatch`: no message differs, but the ids do.
 */
export type CacheReason =
  | "none"
  | "off"
  | "first_use"
  | "restored"
  | "restore_failed"
  | "evicted"
  | "edited_at_message"
  | "truncated"
  | "token_mismatch";

/** What a session's cache did for one turn, and why not more. */
export interface CacheReport {
  /** Prompt tokens whose KV was there. */
  reused: number;
  /** Those of them that another session of the tenant had, and this one had not. */
  shared: number;
  /** Prompt tokens whose KV came from a public prompt; none of `reused`, which is the tenant's own. */
  fromPublic: number;
  /** Tokens evaluated into the cache, prompt and answer. */
  written: number;
  reason: CacheReason;
  /** Where the prompt leaves the transcript: token, and message where one differs. Absent where it does not. */
  firstDifference?: { token: number; message?: number };
  /** Bytes of backend memory that the session holds after the turn; 0 when it was deleted meanwhile. */
  bytes: number;
  /** Where the session's KV was before the turn. */
  stateBefore: KvState;
  /** Turns of the session after this one; 0 without a session. */
  turn: number;
}

/** What can be said before the first pass. */
export type CacheForecast = Pick<CacheReport, "reason" | "firstDifference" | "stateBefore">;

/**
 * Compares a prompt with a session.
 * @param reused tokens whose KV is there to use
 * @param restored those of them that were parked: what was not worth bringing back another session may have had
 * @param restoreFailed whether parked KV was to be brought back and could not be
 */
export function explainCache(
  { transcript, name, turn }: Session,
  prompt: Pick<PreparedPrompt, "ids" | "messages" | "truncated">,
  stateBefore: KvState,
  reused: number,
  { restored = 0, restoreFailed = false } = {},
): CacheForecast {
  if (name === undefined) return { reason: "off", stateBefore };
  if (turn === 0) return { reason: "first_use", stateBefore };
  const { ids, messages } = transcript;
  const shared = commonLength(ids, prompt.ids, (a, b) => a === b);
  const differs = shared < ids.length && shared < prompt.ids.length;
  const sameMessages = commonLength(messages, prompt.messages, sameWords);
  const edited = sameMessages < Math.min(messages.length, prompt.messages.length);
  // Messages of a shortened prompt are not numbered as the caller numbers them.
  const named = edited && !prompt.truncated;
  const firstDifference = differs ? { token: shared, ...(named && { message: sameMessages }) } : undefined;
  // The last sampled token has no KV, and one token of the prompt has to be evaluated in any case.
  const possible = Math.min(shared, prompt.ids.length - 1, ids.length - 1);
  const reason = reused < possible
    ? (restoreFailed ? "restore_failed" : "evicted")
    : differs
    ? (edited ? (prompt.truncated ? "truncated" : "edited_at_message") : "token_mismatch")
    : restored > 0
    ? "restored"
    : "none";
  return { reason, stateBefore, ...(firstDifference && { firstDifference }) };
}
