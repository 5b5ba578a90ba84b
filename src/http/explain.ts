import type { CacheReport } from "../engine/cache_report.ts";
import type { Engine } from "../engine/engine.ts";
import type { EndEvent, SessionRef, Timings, Usage } from "../engine/generate_request.ts";
import type { SessionInfo } from "../engine/sessions.ts";

/** Token counts as OpenAI has them. */
export function wireUsage({ promptTokens, cachedTokens, completionTokens, drafts, cache }: Usage) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: {
      cached_tokens: cachedTokens,
      // Of the prompt, and only what a later call can find.
      cache_write_tokens: cache.reason === "off" ? 0 : promptTokens - cachedTokens - cache.fromPublic,
    },
    completion_tokens_details: {
      accepted_prediction_tokens: drafts.accepted,
      rejected_prediction_tokens: drafts.rejected,
    },
  };
}

/** What the cache did, why not more, and where the time went: the `hearth` field of an answer. */
export function explain({ usage: { cache, truncated }, timings }: EndEvent, session: SessionInfo | undefined) {
  return {
    session: session && {
      id: session.id,
      turn: cache.turn,
      tokens: session.tokens,
      state_before: cache.stateBefore,
      expires_at: seconds(session.expiresAt),
    },
    cache: {
      reused: cache.reused,
      shared: cache.shared,
      public: cache.fromPublic,
      written: cache.written,
      ...wireForecast(cache),
      bytes: cache.bytes,
    },
    truncated: truncated ?? null,
    timings: {
      queue_ms: tenths(timings.queueMs),
      restore_ms: tenths(timings.restoreMs),
      prefill_ms: tenths(timings.prefillMs),
      decode_ms: tenths(timings.decodeMs),
    },
  };
}

/** Why no more was reused, or would be. */
export function wireForecast({ reason, firstDifference }: Pick<CacheReport, "reason" | "firstDifference">) {
  return {
    reason,
    first_difference: firstDifference
      ? { token: firstDifference.token, message: firstDifference.message ?? null }
      : null,
  };
}

/** The session after its turn; `undefined` where there was none, or it is gone by now. */
export function sessionAfter(engine: Engine, ref: SessionRef | undefined, { reason }: CacheReport) {
  if (!ref || reason === "off") return undefined;
  try {
    return engine.sessions.describe(ref.id, ref);
  } catch {
    return undefined;
  }
}

/** The `Server-Timing` header, of what is known by now. https://www.w3.org/TR/server-timing/ */
export function serverTiming({ queueMs, restoreMs, prefillMs, decodeMs }: Partial<Timings>): string {
  return Object.entries({ queue: queueMs, restore: restoreMs, prefill: prefillMs, decode: decodeMs })
    .filter(([, ms]) => ms !== undefined)
    .map(([name, ms]) => `${name};dur=${ms!.toFixed(1)}`)
    .join(", ");
}

/** Unix seconds, as OpenAI has times. */
export const seconds = (ms: number | undefined): number | null => ms === undefined ? null : Math.floor(ms / 1000);

const tenths = (ms: number) => Math.round(ms * 10) / 10;
