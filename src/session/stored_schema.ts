import { z } from "zod";
import type { StoredSampling, TranscriptDelta } from "./transcript.ts";

/** What stored sessions and capsules may hold: files and uploads are not to be believed. */

const count = z.int().min(0);
const tokenId = count.max(2 ** 31 - 1);
/** Any whole number: earlier versions took every one, and kept it. */
const biasedId = z.number().min(0).refine(Number.isInteger, "wanted a whole number");

const sampling: z.ZodType<StoredSampling> = z.object({
  doSample: z.boolean(),
  temperature: z.number(),
  topK: z.number(),
  topP: z.number(),
  minP: z.number(),
  repetitionPenalty: z.number(),
  presencePenalty: z.number(),
  frequencyPenalty: z.number(),
  seed: z.number().nullable(),
  logitBias: z.array(z.tuple([biasedId, z.number()])),
});

export const deltaSchema: z.ZodType<TranscriptDelta> = z.object({
  keep: z.object({ ids: count, messages: count, turns: count }),
  ids: z.array(tokenId),
  messages: z.array(z.object({
    role: z.string(),
    content: z.string(),
    span: z.tuple([count, count]).optional(),
  })),
  turns: z.array(z.object({
    replyStart: count,
    end: count,
    messagesEnd: count,
    finishReason: z.enum(["stop", "length", "aborted", "rewound"]),
    sampling,
    at: count,
  })),
});

/** What ids mean: a transcript goes on only on the model and tokenizer that it was made with. */
export const modelIdentitySchema = z.object({
  /** What the API calls it. */
  id: z.string(),
  /** SHA-256 in hex, of what {@linkcode ModelFolder.hashes} says. */
  model: z.string(),
  tokenizer: z.string(),
  template: z.string(),
});

export type ModelIdentity = z.infer<typeof modelIdentitySchema>;

/** Names what differs between two identities; `undefined` when nothing does. */
export function identityMismatch(one: ModelIdentity, other: ModelIdentity): string | undefined {
  const parts = { model: "weights", tokenizer: "tokenizer", template: "chat template" } as const;
  for (const part of ["model", "tokenizer", "template"] as const) {
    if (one[part] !== other[part]) return parts[part];
  }
  return undefined;
}
