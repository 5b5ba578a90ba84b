import { z } from "zod";
import { type GenerateRequest, MAX_STOP_STRINGS, type SessionRef } from "../engine/generate_request.ts";
import { InvalidRequestError } from "../errors.ts";
import type { OnDisconnect } from "./answer_stream.ts";
import { defined, parse } from "./parse.ts";
import type { Caller } from "./read_json.ts";
import { type NamedSession, sessionField, toSession } from "./session_field.ts";

/**
 * Untrusted JSON to a request. Wrong types and ranges are refused with the field's name; fields that
 * nobody here knows are ignored, because clients send many; fields that change what an answer means
 * and that we do not have are refused rather than ignored.
 */

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
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().positive().nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  logit_bias: z.record(z.string().regex(/^\d+$/, "wanted token ids as keys"), z.number().min(-100).max(100)).nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).max(MAX_STOP_STRINGS)]).nullish(),
  truncation: z.enum(["auto", "disabled"]).nullish(),
  ignore_eos: z.boolean().nullish(),
  session: sessionField.nullish(),
  use_cache: z.boolean().nullish(),
  cache: z.enum(["on", "off"]).nullish(),
});

const messages = z.array(message);
const generateBody = generation.extend({
  prompt: z.string().min(1).nullish(),
  messages: messages.min(1).nullish(),
});
const chatBody = generation.extend({
  // None where the last turn is answered again.
  messages: messages.nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  n: z.literal(1, "wanted 1: one answer a request").nullish(),
  logprobs: z.literal(false, "wanted false: log probabilities are not served").nullish(),
  tools: z.array(z.unknown()).max(0, "wanted none: tools are not served").nullish(),
  // What tools were called before.
  functions: z.array(z.unknown()).max(0, "wanted none: functions are not served").nullish(),
  modalities: z.array(z.literal("text", `wanted "text": nothing else is served`)).nullish(),
  response_format: z.object({ type: z.literal("text", `wanted "text": no other format is served`) }).nullish(),
});

/** A validated body of `POST /v1/generate` or `/v1/chat/completions`. */
export interface ParsedRequest {
  /** As the client named it; `undefined` when it did not. */
  model: string | undefined;
  request: GenerateRequest;
  /** When the client leaves before the end. */
  onDisconnect: OnDisconnect;
}

/** A validated body of `POST /v1/chat/completions`. */
export interface ParsedChatRequest extends ParsedRequest {
  stream: boolean;
  includeUsage: boolean;
}

/** @throws {InvalidRequestError} with the first wrong field */
export function parseGenerateRequest(body: unknown, caller: Caller): ParsedRequest {
  const parsed = parse(generateBody, body);
  const { prompt, messages } = parsed;
  const named = toSession(parsed.session, caller);
  const regenerates = named?.request.mode === "regenerate";
  if (Boolean(prompt) === Boolean(messages) && !(regenerates && !prompt)) {
    throw new InvalidRequestError(
      `Cannot generate: wanted either "prompt" or "messages", got ${prompt ? "both" : "neither"}`,
      "prompt",
    );
  }
  const what = prompt ? { text: prompt } : { messages: plainMessages(messages ?? []) };
  return toParsed(parsed, what, named);
}

/** @throws {InvalidRequestError} with the first wrong field */
export function parseChatRequest(body: unknown, caller: Caller): ParsedChatRequest {
  const parsed = parse(chatBody, body);
  const { stream, stream_options, messages } = parsed;
  const named = toSession(parsed.session, caller);
  if (!messages?.length && named?.request.mode !== "regenerate") {
    throw new InvalidRequestError(`Cannot use messages: wanted at least one`, "messages");
  }
  return {
    ...toParsed(parsed, { messages: plainMessages(messages ?? []) }, named),
    stream: stream ?? false,
    includeUsage: stream_options?.include_usage ?? false,
  };
}

type Messages = z.infer<typeof messages>;

/** Joins text parts; `developer` is the newer spelling of `system`, which templates do not know. */
function plainMessages(list: Messages) {
  return list.map(({ role, content }) => ({
    role: role === "developer" ? "system" : role,
    content: typeof content === "string" ? content : content.map((part) => part.text).join(""),
  }));
}

function toParsed(
  body: z.infer<typeof generation>,
  prompt: GenerateRequest["prompt"],
  named: NamedSession | undefined,
): ParsedRequest {
  return {
    model: body.model ?? undefined,
    request: toRequest(body, prompt, named?.request),
    onDisconnect: named?.onDisconnect ?? "cancel",
  };
}

function toRequest(
  body: z.infer<typeof generation>,
  prompt: GenerateRequest["prompt"],
  session: SessionRef | undefined,
): GenerateRequest {
  const maxTokens = body.max_completion_tokens ?? body.max_tokens ?? body.max_new_tokens ?? undefined;
  // Greedy unless the request asks for chance: a repeated call then gives a repeated answer.
  const { temperature, top_p, top_k, min_p } = body;
  const asksForChance = (temperature ?? top_p ?? top_k ?? min_p) != null;
  // OpenAI has 0 for both: no chance, and the likeliest token alone.
  const isGreedy = temperature === 0 || top_p === 0;
  return {
    prompt,
    maxTokens,
    sampling: {
      doSample: asksForChance && !isGreedy,
      ...defined({
        temperature: temperature === 0 ? undefined : temperature,
        topP: top_p === 0 ? undefined : top_p,
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
    truncation: body.truncation ?? "disabled",
    ignoreEos: body.ignore_eos ?? false,
    session,
    useCache: body.use_cache ?? true,
    cache: body.cache ?? "on",
  };
}
