import type { TurnPlan } from "../engine/plan_turn.ts";
import type { SessionDetails, SessionInfo } from "../engine/sessions.ts";
import { seconds, wireForecast } from "./explain.ts";

/** A session as clients see it. */
export function sessionView(session: SessionInfo) {
  return {
    id: session.id,
    object: "session",
    turn: session.turn,
    tokens: session.tokens,
    state: session.state,
    cached_tokens: session.cachedTokens,
    bytes: { hot: session.hotBytes, parked: session.parkedBytes },
    busy: session.busy,
    created_at: seconds(session.createdAt),
    expires_at: seconds(session.expiresAt),
  };
}

/** {@linkcode sessionView} with its messages and turns. @param withIds its token ids as well */
export function sessionDetailsView(session: SessionDetails, withIds: boolean) {
  return {
    ...sessionView(session),
    messages: session.messages.map(({ role, content }) => ({ role, content })),
    turns: session.turns.map((turn) => ({
      prompt_end: turn.replyStart,
      end: turn.end,
      messages: turn.messagesEnd,
      finish_reason: turn.finishReason,
      at: seconds(turn.at),
    })),
    ...(withIds && { ids: session.ids }),
  };
}

/** What `plan` answers. */
export function planView(id: string, plan: TurnPlan) {
  return {
    object: "session.plan",
    session: id,
    turn: plan.turn,
    prompt_tokens: plan.promptTokens,
    reused_tokens: plan.reusedTokens,
    public_tokens: plan.publicTokens,
    new_tokens: plan.newTokens,
    max_tokens: plan.maxTokens,
    bytes: plan.bytes,
    fits: plan.fits,
    state: plan.cache.stateBefore,
    cache: wireForecast(plan.cache),
    truncated: plan.truncated ?? null,
    predicted_ttft_ms: plan.predictedTtftMs === undefined ? null : Math.round(plan.predictedTtftMs * 10) / 10,
  };
}
