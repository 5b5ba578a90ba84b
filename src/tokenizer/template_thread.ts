import { Worker } from "node:worker_threads";
import { BackendUnavailableError, ChatTemplateError, InvalidRequestError } from "../errors.ts";
import type { RenderReply, RenderRequest } from "./template_protocol.ts";

/**
 * Memory of the thread, in MiB. Deno 2.9 keeps to it, but for what one array takes; Bun 1.4 does not know it, and only
 * the time bounds what a template takes: 2 GB were seen in 2 s.
 */
const MAX_HEAP_MIB = 256;

/** How long a reply that came in time may lie unread, because this thread was busy, in milliseconds. */
const UNREAD_MS = 20;

/**
 * Renders Jinja templates in a thread of its own, one at a time: a template comes with a model and is no more to be
 * trusted than any file of a stranger, and one that loops must not hold up HTTP. One that takes too long goes with its
 * thread; the next request starts another. The thread starts with the first request, and does not keep a process alive
 * that has nothing else to do.
 */
export class TemplateThread {
  #worker: Promise<Worker> | undefined;
  /** The same once it listens. */
  #listening: Worker | undefined;
  /** Settles when the request in flight and all that wait for it are done. */
  #tail: Promise<unknown> = Promise.resolve();

  /** Starts the thread if there is none, so that the first request need not wait for it. */
  async warm(): Promise<void> {
    await (this.#worker ??= this.#start());
  }

  /**
   * The text of a template, filled in.
   * @param limitMs milliseconds it may take, the wait for its turn not counted
   * @throws {InvalidRequestError} when the template raises an error
   * @throws {ChatTemplateError} when it is not Jinja, or takes longer, or its text is longer than asked
   * @throws {BackendUnavailableError} when the thread cannot start
   */
  async render(request: RenderRequest, limitMs: number): Promise<string> {
    const reply = this.#tail.then(() => this.#ask(request, limitMs));
    this.#tail = reply.catch(() => {});
    return textOf(await reply, request);
  }

  /** Ends the thread. Not to be called while something is rendered. */
  async close(): Promise<void> {
    const worker = this.#worker;
    this.#worker = this.#listening = undefined;
    await (await worker?.catch(() => undefined))?.terminate();
  }

  async #start(): Promise<Worker> {
    const worker = new Worker(new URL("./template_worker.ts", import.meta.url), {
      resourceLimits: { maxOldGenerationSizeMb: MAX_HEAP_MIB },
    });
    try {
      await nextReply(worker);
    } catch (error) {
      this.#worker = undefined;
      throw error;
    }
    // Between requests nobody else listens: a thread that ends there is not to be asked again.
    const forget = () => {
      if (this.#listening === worker) this.#worker = this.#listening = undefined;
    };
    worker.on("error", forget).on("exit", forget).unref();
    this.#listening = worker;
    return worker;
  }

  async #ask(request: RenderRequest, limitMs: number): Promise<RenderReply> {
    const worker = await (this.#worker ??= this.#start());
    const reply = nextReply(worker);
    const late = Promise.withResolvers<never>();
    let timer = setTimeout(() => {
      timer = setTimeout(() => late.reject(tooLate(limitMs)), UNREAD_MS);
    }, limitMs);
    worker.ref();
    worker.postMessage(request);
    try {
      return await Promise.race([reply, late.promise]);
    } catch (error) {
      // The reply that is still awaited ends with the thread, unheard.
      reply.catch(() => {});
      await this.close();
      throw error;
    } finally {
      clearTimeout(timer);
      worker.unref();
    }
  }
}

const tooLate = (limitMs: number) => new ChatTemplateError(`the model's chat template took longer than ${limitMs} ms`);

/** What the thread says next. @throws {BackendUnavailableError} when it dies instead */
function nextReply(worker: Worker): Promise<RenderReply> {
  const { promise, resolve, reject } = Promise.withResolvers<RenderReply>();
  const die = (why: string) =>
    reject(new BackendUnavailableError(`Cannot format messages: the template thread is gone, ${why}`));
  const onError = (error: unknown) => die(`it failed: ${error instanceof Error ? error.message : error}`);
  const onExit = (code: number) => die(`it ended with exit code ${code}`);
  worker.once("message", resolve).once("error", onError).once("exit", onExit);
  const forget = () => worker.off("message", resolve).off("error", onError).off("exit", onExit);
  promise.then(forget, forget);
  return promise;
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
