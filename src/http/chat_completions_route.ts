import { Hono } from "hono";
import { type Answers, EVENT_STREAM } from "./answers.ts";
import { chatEvents, type Envelope, type Explain, wholeChat } from "./chat_wire.ts";
import { explain, serverTiming, sessionAfter } from "./explain.ts";
import { headerText } from "./header_text.ts";
import { callerOf, readJson } from "./read_json.ts";
import { parseChatRequest } from "./request_schema.ts";
import type { Service } from "./service.ts";
import type { AppEnv } from "./tenants.ts";

/**
 * `POST /v1/chat/completions` in OpenAI's wire format, as JSON or as server-sent events.
 * https://platform.openai.com/docs/api-reference/chat
 */
export function chatCompletionsRoute(service: Service, answers: Answers): Hono<AppEnv> {
  return new Hono<AppEnv>().post("/v1/chat/completions", async (c) => {
    const { model, request, stream, includeUsage, onDisconnect } = parseChatRequest(await readJson(c), callerOf(c));
    const engine = service.engineFor(model);
    const envelope: Envelope = {
      id: `chatcmpl-${crypto.randomUUID()}`,
      created: Math.floor(Date.now() / 1000),
      model: engine.model.id,
      system_fingerprint: engine.backend.info.variant,
    };
    const { session } = request;
    const named = session && { "x-session-id": headerText(session.id) };
    return await answers.respond(c, {
      id: envelope.id,
      contentType: stream ? EVENT_STREAM : "application/json",
      session,
      onDisconnect,
      open: async (signal, onCommit) => {
        const generation = await engine.start(request, { signal, onCommit });
        const explained: Explain = (end) => explain(end, sessionAfter(engine, session, end.usage.cache));
        const { headers, pieces } = stream
          ? {
            headers: { "server-timing": serverTiming(generation.timings) },
            pieces: chatEvents(generation, envelope, includeUsage, explained),
          }
          : await wholeChat(generation, envelope, explained);
        return { headers: { ...headers, ...named }, pieces };
      },
    });
  });
}
