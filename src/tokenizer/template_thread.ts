import { BackendUnavailableError, ChatTemplateError, InvalidRequestError } from "../errors.ts";
import { AskedThread } from "./asked_thread.ts";
import type { RenderReply, RenderRequest } from "./template_protocol.ts";

/**
 * Memory of the thread, in MiB. Deno 2.9 keeps to it, but for what one array takes; Bun 1.4 does not know it, and only
 * the time bounds what a template takes: 2 GB were seen in 2 s.
 */
const MAX_HEAP_MIB = 256;

/** Options of {@linkcode TemplateThread.render}. */
export interface RenderOptions {
  /** Milliseconds it may take, the wait for its turn not counted. */
  limitMs: number;
  signal?: AbortSignal;
}

/**
 * Renders Jinja templates in a thread of its own, one at a time: a template comes with a model and is no more to be
 * trusted than any file of a stranger, and one that loops must not hold up HTTP. One that takes too long goes with its
 * thread, {@linkcode AskedThread}.
 */
export class TemplateThread {
  readonly #thread = new AskedThread<RenderRequest, RenderReply>({
    program: new URL("../tokenizer/template_worker.ts", import.meta.url),
    resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
    task: "format messages",
    name: "template",
  });

  /** Starts the thread if there is none, so that the first request need not wait for it. */
  warm(): Promise<void> {
    return this.#thread.warm();
  }

  /**
   * The text of a template, filled in.
   * @throws {InvalidRequestError} when the template raises an error
   * @throws {ChatTemplateError} when it is not Jinja, or takes longer, or its text is longer than asked
   * @throws {BackendUnavailableError} when the thread cannot start
   */
  async render(request: RenderRequest, { limitMs, signal }: RenderOptions): Promise<string> {
    const tooLate = () => new ChatTemplateError(`the model's chat template took longer than ${limitMs} ms`);
    return textOf(await this.#thread.ask(request, { limitMs, tooLate, signal }), request);
  }

  /** Ends the thread. Not to be called while something is rendered. */
  close(): Promise<void> {
    return this.#thread.close();
  }
}

function textOf(reply: RenderReply, { maxLength }: RenderRequest): string {
  if (reply.type === "text") return reply.text;
  if (reply.type === "unparsable") {
    throw new ChatTemplateError(`the model's chat template can't be parsed, ${reply.message}`);
  }
  if (reply.type === "refused") {
    throw new InvalidRequestError(`Cannot format messages: ${reply.message}`, "messages");
  }
  if (reply.type === "too long") {
    throw new ChatTemplateError(
      `the model's chat template made ${reply.length} characters of them, wanted at most ${maxLength}`,
    );
  }
  throw new BackendUnavailableError(`Cannot format messages: the template thread said "${reply.type}" twice`);
}
