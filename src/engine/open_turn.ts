import type { Backend } from "../backend/backend.ts";
import { TurnMismatchError } from "../errors.ts";
import type { KvOffer, KvTiers } from "../session/kv_tiers.ts";
import type { PublicPrefixes } from "../session/public_prefixes.ts";
import type { Session } from "../session/session.ts";
import type { ParkedKv } from "../session/session_kv.ts";
import { type HeldSession, sessionName, type SessionStore } from "../session/session_store.ts";
import { storedSampling } from "../session/transcript.ts";
import type { SamplingParams } from "../sampling/sampling_params.ts";
import { explainCache } from "./cache_report.ts";
import { exactReply } from "./exact_reply.ts";
import type { GenerateRequest, SessionRef } from "./generate_request.ts";
import { type PreparedPrompt, preparePrompt, type PromptEncoder } from "./prompt_ids.ts";
import { reusable, Turn } from "./turn.ts";

/** What turns run on. */
export interface TurnHost {
  store: SessionStore;
  tiers: KvTiers;
  publicPrefixes: PublicPrefixes;
  backend: Backend;
  encoder: PromptEncoder;
}

/** What of a request is settled already. */
export interface TurnOptions {
  params: SamplingParams;
  skipSpecialTokens: boolean;
  signal?: AbortSignal;
  /** Called once the session has the turn, or what was to be kept of one that did not end well. */
  onCommit?: () => void;
}

/** The session that a request's turn is on; `undefined` for a call that keeps nothing. */
export function turnSession(request: GenerateRequest): SessionRef | undefined {
  return usesCache(request) ? request.session : undefined;
}

/** Whether a request may find KV of earlier calls. */
export const usesCache = ({ useCache = true, cache = "on" }: GenerateRequest): boolean => useCache && cache === "on";

/**
 * Begins a turn: holds its session, checks what can be checked, reserves memory and brings the KV to the longest prefix
 * that it shares with the prompt. The session is as before, and free, where this throws.
 * @throws {SessionBusyError} when a turn of the session is running, and it does not wait
 * @throws {TurnSupersededError} when a newer turn superseded it
 * @throws {TurnMismatchError} when the session is not at `ifTurn`
 * @throws {SessionNotFoundError} | {SessionGoneError} when there is nothing to append to
 * @throws {SessionLimitError} when it would be one session more than the tenant may keep
 * @throws {InvalidRequestError} | {ContextOverflowError} as `preparePrompt`
 * @throws {ChatTemplateError} when the model's template fails
 * @throws {OutOfMemoryError} when the KV budget is held by running turns
 */
export async function openTurn(host: TurnHost, request: GenerateRequest, options: TurnOptions): Promise<Turn> {
  const { store } = host;
  const ref = turnSession(request);
  const startedAt = performance.now();
  const held = await hold(store, ref, options.signal);
  try {
    return await open(host, held, request, { ...options, waitedMs: performance.now() - startedAt });
  } catch (error) {
    store.end(held);
    throw error;
  }
}

async function hold(store: SessionStore, ref: SessionRef | undefined, signal?: AbortSignal): Promise<HeldSession> {
  if (!ref) return await store.single();
  const name = sessionName(ref.id, ref.tenant);
  // A new conversation that was meant to go on an old one would be silently without its words.
  const options = { onBusy: ref.onBusy, signal };
  return goesOn(ref) ? await store.take(name, options) : await store.begin(name, options);
}

/** {@linkcode TurnOptions}, and how long the session was waited for, in milliseconds. */
interface HeldTurnOptions extends TurnOptions {
  waitedMs: number;
}

async function open(
  host: TurnHost,
  held: HeldSession,
  request: GenerateRequest,
  options: HeldTurnOptions,
): Promise<Turn> {
  const { store, tiers, publicPrefixes, backend, encoder } = host;
  const { session, hold } = held;
  const ref = turnSession(request);
  const signal = options.signal ? AbortSignal.any([options.signal, hold.signal]) : hold.signal;
  const throwIfAborted = () => signal.throwIfAborted();
  throwIfAborted();
  checkTurn(session, ref);
  const prompt = await preparePrompt(request, session.transcript, encoder, signal);
  throwIfAborted();
  const { kv } = session;
  const stateBefore = kv.state;
  const shared = reusable(kv, prompt.ids);
  const restores = tiers.restorePays(session, shared);
  const reserveStartedAt = performance.now();
  if (request.useCache ?? true) {
    await tiers.reserve(session, bytesToReserve(backend, prompt, restores ? kv.parked : undefined));
    throwIfAborted();
  }
  const restoreStartedAt = performance.now();
  const queueMs = options.waitedMs + restoreStartedAt - reserveStartedAt;
  const restoreFailed = restores && !await tiers.restore(session);
  // Not worth bringing back, or gone with its thread while this waited.
  if (kv.parked || kv.cache?.lost) tiers.drop(session);
  const restoreMs = restores ? performance.now() - restoreStartedAt : 0;
  throwIfAborted();
  const offer = usesCache(request) && !kv.cache ? bestOffer(host, session, prompt.ids) : undefined;
  offer?.give(session);
  const fromPublic = offer?.isPublic ? offer.tokens : 0;
  kv.truncate(reusable(kv, prompt.ids));
  const { length } = kv.ids;
  const restored = restores && !restoreFailed ? length : 0;
  // What this turn evaluates itself, or has from a public prefix: not what it was given or has parked.
  const evaluates = usesCache(request) && length === fromPublic;
  const detokenizer = { skipSpecialTokens: options.skipSpecialTokens, continuesText: prompt.messages.length === 0 };
  return new Turn({
    store,
    held,
    prompt,
    sampling: storedSampling(options.params),
    reused: length - fromPublic,
    shared: (offer?.tokens ?? 0) - fromPublic,
    fromPublic,
    keepPublic: evaluates ? publicPrefixes.keeper(prompt.ids) : undefined,
    queueMs,
    restoreMs,
    ttlMs: ref?.ttlMs,
    forecast: explainCache(session, prompt, stateBefore, length, { restored, restoreFailed }),
    keepPartial: ref?.onAbort === "keep_partial",
    onCommit: options.onCommit,
    detokenizer,
    exactReply: ({ ids, text }) => exactReply(ids, text, encoder.tokenizer, detokenizer),
  });
}

/** What a session without KV may begin with: what its tenant's sessions have, or a public prefix where that is more. */
export function bestOffer(
  { tiers, publicPrefixes }: TurnHost,
  session: Session,
  promptIds: readonly number[],
): KvOffer | undefined {
  const [own, others] = [tiers.offer(session, promptIds), publicPrefixes.offer(promptIds)];
  return others && others.tokens > (own?.tokens ?? 0) ? others : own;
}

/** Bytes of KV that a turn has to be promised. @param restored parked KV that it brings back, all of it */
export function bytesToReserve(
  backend: Backend,
  { ids, maxTokens }: PreparedPrompt,
  restored: ParkedKv | undefined,
): number {
  return Math.max(backend.kvBytes(ids.length + maxTokens), restored ? backend.kvBytes(restored.tokens) : 0);
}

/** Whether a turn goes on a conversation that has to be there. */
export const goesOn = ({ mode, ifTurn }: SessionRef): boolean =>
  mode !== undefined && mode !== "replay" && ifTurn !== 0;

function checkTurn(session: Session, ref: SessionRef | undefined): void {
  if (!ref) return;
  if (ref.ifTurn !== undefined && ref.ifTurn !== session.turn) {
    throw new TurnMismatchError(ref.id, session.turn, ref.ifTurn);
  }
}
