import type { Generation } from "../engine/generation.ts";
import type { EndEvent } from "../engine/generate_request.ts";
import type { OpenedAnswer } from "./answer_stream.ts";
import { describeError } from "./error_response.ts";
import { eventId } from "./event_id.ts";
import type { Frame } from "./frame_ring.ts";
import { type explain, serverTiming, wireUsage } from "./explain.ts";

/** What every chunk of one answer repeats. */
export interface Envelope {
  id: string;
  created: number;
  model: string;
  system_fingerprint: string;
}

/** Makes the `hearth` field of an answer. */
export type Explain = (end: EndEvent) => ReturnType<typeof explain>;

/** An answer as one JSON document. Waits for all of it. */
export async function wholeChat(generation: Generation, envelope: Envelope, explain: Explain): Promise<OpenedAnswer> {
  let content = "";
  let end: EndEvent | undefined;
  for await (const event of generation) {
    content += event.text;
    if (event.type === "end") end = event;
  }
  const { finishReason, usage, timings } = end!;
  const message = { role: "assistant", content, refusal: null };
  const document = {
    ...envelope,
    object: "chat.completion",
    choices: [{ index: 0, message, logprobs: null, finish_reason: finishReason }],
    usage: wireUsage(usage),
    hearth: explain(end!),
  };
  return {
    headers: { "server-timing": serverTiming(timings) },
    pieces: once({ wire: JSON.stringify(document), text: content }),
  };
}

async function* once(frame: Frame): AsyncGenerator<Frame, boolean> {
  yield frame;
  return true;
}

/**
 * Server-sent events of one answer. An error becomes a last `data: {"error":…}`: the status is long sent.
 * @returns whether the answer is complete
 */
export async function* chatEvents(
  generation: Generation,
  envelope: Envelope,
  includeUsage: boolean,
  explain: Explain,
): AsyncGenerator<Frame, boolean> {
  let number = 0;
  const event = (data: string, text = ""): Frame => ({
    wire: `id: ${eventId(envelope.id, number++)}\ndata: ${data}\n\n`,
    text,
  });
  const chunk = (fields: object, text?: string) =>
    event(JSON.stringify({ ...envelope, object: "chat.completion.chunk", ...fields }), text);
  const choice = (delta: object, finishReason: string | null = null) => ({
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finishReason }],
    ...(includeUsage && { usage: null }),
  });
  try {
    // Typed clients take the role from the first chunk.
    yield chunk(choice({ role: "assistant", content: "" }));
    for await (const event of generation) {
      if (event.text) yield chunk(choice({ content: event.text }), event.text);
      if (event.type === "backend") {
        const { name, reason } = event;
        yield chunk({ ...choice({}), hearth: { backend: { name, reason } } });
      }
      if (event.type !== "end") continue;
      const hearth = explain(event);
      yield chunk({ ...choice({}, event.finishReason), ...(!includeUsage && { hearth }) });
      if (includeUsage) yield chunk({ choices: [], usage: wireUsage(event.usage), hearth });
    }
    yield event("[DONE]");
    return true;
  } catch (error) {
    const { status, body } = describeError(error);
    if (status === 500) console.error(error);
    yield event(JSON.stringify(body));
    return false;
  }
}
