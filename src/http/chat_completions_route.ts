import { Hono } from "hono";
import type { EndEvent, Usage } from "../engine/generate_request.ts";
import type { Generation } from "../engine/generation.ts";
import { bodyStream } from "./body_stream.ts";
import { describeError } from "./error_response.ts";
import { readJson } from "./read_json.ts";
import { parseChatRequest } from "./request_schema.ts";
import type { Service } from "./service.ts";

/** Options of {@linkcode chatCompletionsRoute}. */
export interface ChatCompletionsOptions {
  /** A stream that is silent for so many milliseconds sends an SSE comment. @default 10_000 */
  pingMs?: number;
}

/** What every chunk of one answer repeats. */
interface Envelope {
  id: string;
  created: number;
  model: string;
  system_fingerprint: string;
}

/**
 * `POST /v1/chat/completions` in OpenAI's wire format, as JSON or as server-sent events.
 * https://platform.openai.com/docs/api-reference/chat
 */
export function chatCompletionsRoute(service: Service, options: ChatCompletionsOptions = {}): Hono {
  return new Hono().post("/v1/chat/completions", async (c) => {
    const parsed = parseChatRequest(await readJson(c.req.raw), c.req.header("x-session-id"));
    const engine = service.engineFor(parsed.model);
    const generation = await engine.start(parsed.request, { signal: c.req.raw.signal });
    const envelope: Envelope = {
      id: `chatcmpl-${crypto.randomUUID()}`,
      created: Math.floor(Date.now() / 1000),
      model: engine.model.id,
      system_fingerprint: engine.backend.info.variant,
    };
    if (parsed.request.session) c.header("x-session-id", parsed.request.session.id);
    if (!parsed.stream) {
      const { answer, serverTiming } = await wholeAnswer(generation, envelope);
      return c.json(answer, 200, { "server-timing": serverTiming });
    }

    const everyMs = options.pingMs ?? 10_000;
    const body = bodyStream(events(generation, envelope, parsed.includeUsage), {
      onCancel: () => generation.cancel(),
      keepAlive: { everyMs, comment: ": ping\n\n" },
    });
    return c.body(body, 200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      "x-accel-buffering": "no",
    });
  });
}

async function wholeAnswer(generation: Generation, envelope: Envelope) {
  let content = "";
  let end: EndEvent | undefined;
  for await (const event of generation) {
    content += event.text;
    if (event.type === "end") end = event;
  }
  const { finishReason, usage, timings } = end!;
  const message = { role: "assistant", content, refusal: null };
  return {
    answer: {
      ...envelope,
      object: "chat.completion",
      choices: [{ index: 0, message, logprobs: null, finish_reason: finishReason }],
      usage: wireUsage(usage),
    },
    serverTiming: `prefill;dur=${timings.prefillMs.toFixed(1)}, decode;dur=${timings.decodeMs.toFixed(1)}`,
  };
}

/** Server-sent events of one answer. An error becomes a last `data: {"error":…}`: the status is long sent. */
async function* events(generation: Generation, envelope: Envelope, includeUsage: boolean): AsyncGenerator<string> {
  const chunk = (delta: object, finishReason: string | null = null) =>
    sse({
      ...envelope,
      object: "chat.completion.chunk",
      choices: [{ index: 0, delta, logprobs: null, finish_reason: finishReason }],
      ...(includeUsage && { usage: null }),
    });
  try {
    // Typed clients take the role from the first chunk.
    yield chunk({ role: "assistant", content: "" });
    for await (const event of generation) {
      if (event.text) yield chunk({ content: event.text });
      if (event.type !== "end") continue;
      yield chunk({}, event.finishReason);
      if (includeUsage) {
        yield sse({ ...envelope, object: "chat.completion.chunk", choices: [], usage: wireUsage(event.usage) });
      }
    }
    yield "data: [DONE]\n\n";
  } catch (error) {
    const { status, body } = describeError(error);
    if (status === 500) console.error(error);
    yield sse(body);
  }
}

const sse = (data: object) => `data: ${JSON.stringify(data)}\n\n`;

function wireUsage({ promptTokens, cachedTokens, completionTokens, drafts }: Usage) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
    completion_tokens_details: {
      accepted_prediction_tokens: drafts.accepted,
      rejected_prediction_tokens: drafts.rejected,
    },
  };
}
