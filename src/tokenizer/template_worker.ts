/** The template thread's program: renders what comes, one after the other. Whoever started it sees to the time. */
import { Template } from "@huggingface/jinja";
import { parentPort } from "../host/threads.ts";
import type { RenderReply, RenderRequest } from "./template_protocol.ts";

/** The template of the last request: a model has one. */
let parsed: { source: string; template: Template } | undefined;

function render({ template: source, variables, maxLength }: RenderRequest): RenderReply {
  if (parsed?.source !== source) {
    try {
      parsed = { source, template: new Template(source) };
    } catch (error) {
      return { type: "unparsable", message: messageOf(error) };
    }
  }
  try {
    const text = parsed.template.render({ ...variables });
    return text.length > maxLength ? { type: "too long", length: text.length } : { type: "text", text };
  } catch (error) {
    return { type: "refused", message: messageOf(error) };
  }
}

/** A template raises what text it likes, which goes into an answer and a log. */
const MAX_MESSAGE = 1000;

function messageOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return message.length > MAX_MESSAGE ? `${message.slice(0, MAX_MESSAGE)}…` : message;
}

const reply = (message: RenderReply) => parentPort!.postMessage(message);
parentPort!.on("message", (request: RenderRequest) => reply(render(request)));
reply({ type: "ready" });
