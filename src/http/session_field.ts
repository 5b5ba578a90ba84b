import { z } from "zod";
import type { SessionRef } from "../engine/generate_request.ts";
import { InvalidRequestError } from "../errors.ts";
import { isSessionId, WANTED_SESSION_ID } from "../session/session_id.ts";
import type { OnDisconnect } from "./answer_stream.ts";
import { defined, parse } from "./parse.ts";
import type { Caller } from "./read_json.ts";

export const sessionId = z.string().refine(isSessionId, WANTED_SESSION_ID);
export const ttlSeconds = z.number().positive().max(7 * 24 * 3600);
export const turnNumber = z.int().min(0);
/** The `session` field of a request for tokens: an id, or how the turn goes with it. */
export const sessionField = z.union([
  sessionId,
  z.object({
    id: sessionId.nullish(),
    ttl_s: ttlSeconds.nullish(),
    mode: z.enum(["replay", "append", "regenerate"]).nullish(),
    if_turn: turnNumber.nullish(),
    on_busy: z.enum(["reject", "queue", "supersede"]).nullish(),
    on_abort: z.enum(["rollback", "keep_partial"]).nullish(),
    on_disconnect: z.enum(["cancel", "continue"]).nullish(),
  }),
]);

/** The session of a request, and what is HTTP's alone. */
export interface NamedSession {
  request: SessionRef;
  onDisconnect: OnDisconnect;
}

/** @throws {InvalidRequestError} when the session has no name, here or in the header */
export function toSession(
  sent: z.infer<typeof sessionField> | null | undefined,
  { tenant, sessionId: header }: Caller,
): NamedSession | undefined {
  const fields = typeof sent === "string" ? { id: sent } : sent ?? {};
  const id = fields.id ?? (header === undefined ? undefined : parse(sessionId, header, "x-session-id"));
  if (id === undefined) {
    if (!sent) return undefined;
    throw new InvalidRequestError(
      `Cannot use session: wanted its "id" here or in the header X-Session-Id`,
      "session.id",
    );
  }
  const { ttl_s, mode, if_turn, on_busy, on_abort, on_disconnect } = fields;
  return {
    request: {
      id,
      tenant,
      ...defined({ ttlMs: ttl_s && ttl_s * 1000, mode, ifTurn: if_turn, onBusy: on_busy, onAbort: on_abort }),
    },
    onDisconnect: on_disconnect ?? "cancel",
  };
}
