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

const messageOf = (error: unknown) => error instanceof Error ? error.message : String(error);

const reply = (message: RenderReply) => parentPort!.postMessage(message);
parentPort!.on("message", (request: RenderRequest) => reply(render(request)));
reply({ type: "ready" });
