import { SessionBusyError, TurnMismatchError } from "../errors.ts";
import { Session } from "../session/session.ts";
import { sessionName } from "../session/session_store.ts";
import { type CacheForecast, explainCache } from "./cache_report.ts";
import { checkRequest } from "./check_request.ts";
import type { GenerateRequest } from "./generate_request.ts";
import { bestOffer, bytesToReserve, goesOn, type TurnHost, turnSession, usesCache } from "./open_turn.ts";
import { preparePrompt } from "./prompt_ids.ts";
import type { Truncation } from "./truncate_messages.ts";
import { reusable } from "./turn.ts";

/** What a request would do, were it made now. */
export interface TurnPlan {
  /** Turns that the session has. */
  turn: number;
  promptTokens: number;
  /** Prompt tokens whose KV is there, or would be brought back. */
  reusedTokens: number;
  /** Prompt tokens that a public prompt has; none of `reusedTokens`. */
  publicTokens: number;
  /** Prompt tokens to evaluate. */
  newTokens: number;
  /** Tokens the answer may have. */
  maxTokens: number;
  /** Bytes of backend memory to reserve. */
  bytes: number;
  /** What of the conversation would be left out, if something would. */
  truncated?: Truncation;
  /** Whether running turns leave so much. */
  fits: boolean;
  cache: CacheForecast;
  /** Milliseconds to the first token, alone on the machine; `undefined` as long as nothing like it was measured. */
  predictedTtftMs: number | undefined;
}

/**
 * What a request would reuse and cost.
 * @throws what `openTurn` throws before it reserves
 */
export async function planTurn(host: TurnHost, request: GenerateRequest): Promise<TurnPlan> {
  checkRequest(request);
  const { store, tiers, backend, encoder } = host;
  const ref = turnSession(request);
  const name = ref && sessionName(ref.id, ref.tenant);
  const session = (name && (goesOn(ref) ? store.get(name) : store.peek(name))) ?? new Session(name);
  if (ref && session.lock.busy && (ref.onBusy ?? "reject") === "reject") throw new SessionBusyError(ref.id);
  if (ref?.ifTurn !== undefined && ref.ifTurn !== session.turn) {
    throw new TurnMismatchError(ref.id, session.turn, ref.ifTurn);
  }

  const prompt = await preparePrompt(request, session.transcript, encoder);
  const { kv } = session;
  const stateBefore = kv.state;
  const shared = stateBefore === "cold" ? 0 : reusable(kv, prompt.ids);
  const restores = tiers.restorePays(session, shared);
  // Parked KV that is not worth bringing back goes, and then others may have the beginning.
  const begins = stateBefore !== "hot" && !restores && usesCache(request);
  const offer = begins ? bestOffer(host, session, prompt.ids) : undefined;
  const publicTokens = offer?.isPublic ? offer.tokens : 0;
  const reusedTokens = begins ? (offer?.tokens ?? 0) - publicTokens : shared;
  const newTokens = prompt.ids.length - reusedTokens - publicTokens;
  const bytes = bytesToReserve(backend, prompt, restores ? kv.parked : undefined);
  const prefillMs = tiers.rates.prefillMs(newTokens, prompt.ids.length - newTokens);
  const restoreMs = restores ? tiers.rates.restoreMs(kv.parked!.byteLength) : 0;
  return {
    turn: session.turn,
    promptTokens: prompt.ids.length,
    reusedTokens,
    publicTokens,
    newTokens,
    maxTokens: prompt.maxTokens,
    bytes,
    ...(prompt.truncated && { truncated: prompt.truncated }),
    fits: bytes <= tiers.availableBytes,
    cache: explainCache(session, prompt, stateBefore, reusedTokens + publicTokens, { restored: restores ? shared : 0 }),
    predictedTtftMs: prefillMs === undefined || restoreMs === undefined ? undefined : prefillMs + restoreMs,
  };
}
