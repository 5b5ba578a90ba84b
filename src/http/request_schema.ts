import { z } from "zod";
import { type GenerateRequest, MAX_STOP_STRINGS } from "../engine/generate_request.ts";
import { InvalidRequestError } from "../errors.ts";

/**
 * Untrusted JSON to a request. Wrong types and ranges are refused with the field's name; fields that
 * nobody here knows are ignored, because clients send many; fields that change what an answer means
 * and that we do not have are refused rather than ignored.
 */

const MAX_SESSION_ID_BYTES = 256;

const sessionId = z.string().min(1).refine(
  (id) => new TextEncoder().encode(id).length <= MAX_SESSION_ID_BYTES && !/\p{Cc}/u.test(id),
  `wanted at most ${MAX_SESSION_ID_BYTES} bytes without control characters`,
);
const session = z.union([
  sessionId,
  z.object({ id: sessionId, ttl_s: z.number().positive().max(7 * 24 * 3600).optional() }),
]);

const textPart = z.object({ type: z.literal("text"), text: z.string() });
const message = z.object({
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: z.union([z.string(), z.array(textPart)]),
});

const tokenLimit = z.int().min(0).nullish();
const generation = z.object({
  model: z.string().nullish(),
  max_tokens: tokenLimit,
  max_completion_tokens: tokenLimit,
  max_new_tokens: tokenLimit,
  temperature: z.number().min(0).max(100).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  logit_bias: z.record(z.string().regex(/^\d+$/, "wanted token ids as keys"), z.number().min(-100).max(100)).nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(MAX_STOP_STRINGS)]).nullish(),
  ignore_eos: z.boolean().nullish(),
  session: session.nullish(),
  use_cache: z.boolean().nullish(),
  cache: z.enum(["on", "off"]).nullish(),
});

const messages = z.array(message).min(1);
const generateBody = generation.extend({ prompt: z.string().min(1).nullish(), messages: messages.nullish() });
const chatBody = generation.extend({
  messages,
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  n: z.literal(1, "wanted 1: one answer a request").nullish(),
  logprobs: z.literal(false, "wanted false: log probabilities are not served").nullish(),
  tools: z.array(z.unknown()).max(0, "wanted none: tools are not served").nullish(),
  response_format: z.object({ type: z.literal("text", `wanted "text": no other format is served`) }).nullish(),
});

/** A validated body of `POST /v1/generate` or `/v1/chat/completions`. */
export interface ParsedRequest {
  /** As the client named it; `undefined` when it did not. */
  model: string | undefined;
  request: GenerateRequest;
}

/** A validated body of `POST /v1/chat/completions`. */
export interface ParsedChatRequest extends ParsedRequest {
  stream: boolean;
  includeUsage: boolean;
}

/**
 * @param headerSessionId the `X-Session-Id` header, used when the body names no session
 * @throws {InvalidRequestError} with the first wrong field
 */
export function parseGenerateRequest(body: unknown, headerSessionId?: string): ParsedRequest {
  const parsed = parse(generateBody, body);
  const { prompt, messages } = parsed;
  if (Boolean(prompt) === Boolean(messages)) {
    throw new InvalidRequestError(
      `Cannot generate: wanted either "prompt" or "messages", got ${prompt ? "both" : "neither"}`,
      "prompt",
    );
  }
  const what = prompt ? { text: prompt } : { messages: plainMessages(messages!) };
  return { model: parsed.model ?? undefined, request: toRequest(parsed, what, headerSessionId) };
}

/**
 * @param headerSessionId the `X-Session-Id` header, used when the body names no session
 * @throws {InvalidRequestError} with the first wrong field
 */
export function parseChatRequest(body: unknown, headerSessionId?: string): ParsedChatRequest {
  const parsed = parse(chatBody, body);
  return {
    model: parsed.model ?? undefined,
    request: toRequest(parsed, { messages: plainMessages(parsed.messages) }, headerSessionId),
    stream: parsed.stream ?? false,
    includeUsage: parsed.stream_options?.include_usage ?? false,
  };
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = deepest(result.error.issues[0]!);
  const param = issue.path.join(".") || null;
  throw new InvalidRequestError(`Cannot use ${param ?? "the body"}: ${issue.message}`, param);
}

/** Inside a union the useful complaint is the one that got furthest. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const inner = issue.errors.flat().map((e) => deepest({ ...e, path: [...issue.path, ...e.path] }));
  return inner.sort((a, b) => b.path.length - a.path.length)[0] ?? issue;
}

type Messages = z.infer<typeof messages>;

/** Joins text parts; `developer` is the newer spelling of `system`, which templates do not know. */
function plainMessages(list: Messages) {
  return list.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map((part) => part.text).join(""),
  }));
}

function toRequest(
  body: z.infer<typeof generation>,
  prompt: GenerateRequest["prompt"],
  headerSessionId: string | undefined,
): GenerateRequest {
  const named = body.session ?? (headerSessionId === undefined ? undefined : parse(sessionId, headerSessionId));
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? body.max_new_tokens ?? undefined;
  // Greedy unless the request asks for chance: a repeated call then gives a repeated answer.
  const { temperature, top_p, top_k, min_p } = body;
  const asksForChance = (temperature ?? top_p ?? top_k ?? min_p) != null;
  return {
    prompt,
    maxTokens,
    sampling: {
      doSample: asksForChance && temperature !== 0,
      ...defined({
        temperature: temperature === 0 ? undefined : temperature,
        topP: top_p,
        topK: top_k,
        minP: min_p,
        repetitionPenalty: body.repetition_penalty,
        presencePenalty: body.presence_penalty,
        frequencyPenalty: body.frequency_penalty,
        seed: body.seed,
      }),
      ...(body.logit_bias && {
        logitBias: new Map(Object.entries(body.logit_bias).map(([id, bias]) => [Number(id), bias])),
      }),
    },
    stop: body.stop == null ? [] : [body.stop].flat(),
    ignoreEos: body.ignore_eos ?? false,
    session: typeof named === "string"
      ? { id: named }
      : named && { id: named.id, ttlMs: named.ttl_s === undefined ? undefined : named.ttl_s * 1000 },
    useCache: body.use_cache ?? true,
    cache: body.cache ?? "on",
  };
}

/** Leaves out what is `null` or `undefined`. */
function defined<T extends Record<string, number | null | undefined>>(fields: T): { [K in keyof T]?: number } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null)) as { [K in keyof T]?: number };
}
