import { z } from "zod";
import { sessionId, ttlSeconds, turnNumber } from "./session_field.ts";

/** Bodies of the verbs under `/v1/sessions`. */

export const createBody = z.object({ id: sessionId.nullish(), ttl_s: ttlSeconds.nullish() });

export const rewindBody = z.object({
  to_turn: turnNumber.nullish(),
  to_token: z.int().min(0).nullish(),
  if_turn: turnNumber.nullish(),
}).refine((body) => (body.to_turn == null) !== (body.to_token == null), "wanted either to_turn or to_token");

export const forkBody = z.object({ at_turn: turnNumber.nullish(), id: sessionId.nullish() });

export const exportBody = z.object({ kv: z.boolean().nullish() });

/** Queries, where every value is text. */

const yesOrNo = z.enum(["true", "false"]).transform((text) => text === "true");

export const importQuery = z.object({ id: sessionId.optional(), replace: yesOrNo.optional() });

export const listQuery = z.object({
  limit: z.coerce.number("wanted a number").int().min(1).max(1000).default(100),
  after: sessionId.optional(),
});

export const inspectQuery = z.object({ ids: yesOrNo.default(false) });
