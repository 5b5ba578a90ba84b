import { BackendUnavailableError } from "../errors.ts";
import { type ResourceLimits, Worker } from "../host/threads.ts";

/** What an {@linkcode AskedThread} runs, and what to say when it cannot. */
export interface AskedThreadOptions {
  /** The thread's program: posts one message once it listens, then a reply to each request, in their order. */
  program: URL;
  /** What it is given to start with, copied. Called at each start. */
  workerData?: () => unknown;
  resourceLimits?: ResourceLimits;
  /** How long it is kept without a request, in milliseconds. @default for ever */
  idleMs?: number;
  /** In an error's words: what cannot be done without it, and what it is called. */
  task: string;
  name: string;
}

/** Options of {@linkcode AskedThread.ask}. */
export interface AskOptions {
  /** Milliseconds that it may take, the wait for its turn not counted. */
  limitMs: number;
  /** The error for one that takes longer. */
  tooLate: () => Error;
  /** Whoever asks does not wait any more. What runs then goes on to its end or limit, what waits is not begun. */
  signal?: AbortSignal;
}

/** How long a reply that came in time may lie unread, because this thread was busy, in milliseconds. */
const UNREAD_MS = 20;

/**
 * A thread that is asked one thing at a time, each for a limited time. One that takes too long goes with its thread, as
 * does what makes it die; the next request starts another. The thread starts with the first request, and does not keep a
 * process alive that has nothing else to do.
 */
export class AskedThread<Request, Reply> {
  readonly #options: AskedThreadOptions;
  #worker: Promise<Worker> | undefined;
  /** The same once it listens. */
  #listening: Worker | undefined;
  /** Settles when the request in flight and all that wait for it are done. */
  #tail: Promise<unknown> = Promise.resolve();
  #idle: ReturnType<typeof setTimeout> | undefined;

  constructor(options: AskedThreadOptions) {
    this.#options = options;
  }

  /** Starts the thread if there is none, so that the first request need not wait for it. */
  async warm(): Promise<void> {
    await (this.#worker ??= this.#start());
  }

  /**
   * What the thread replies.
   * @throws {BackendUnavailableError} when it cannot start, or dies
   * @throws `tooLate()` and the signal's reason
   */
  async ask(request: Request, options: AskOptions): Promise<Reply> {
    const { signal } = options;
    const reply = this.#tail.then(() => {
      signal?.throwIfAborted();
      return this.#ask(request, options);
    });
    this.#tail = reply.catch(() => {});
    return await unlessAborted(reply, signal);
  }

  /** Ends the thread. Not to be called while something is asked. */
  async close(): Promise<void> {
    clearTimeout(this.#idle);
    const worker = this.#worker;
    this.#worker = this.#listening = undefined;
    await (await worker?.catch(() => undefined))?.terminate();
  }

  async #start(): Promise<Worker> {
    const { program, workerData, resourceLimits } = this.#options;
    const worker = new Worker(program, { workerData: workerData?.(), resourceLimits });
    try {
      await this.#next(worker);
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

  async #ask(request: Request, { limitMs, tooLate }: AskOptions): Promise<Reply> {
    clearTimeout(this.#idle);
    const worker = await (this.#worker ??= this.#start());
    const reply = this.#next(worker);
    const late = Promise.withResolvers<never>();
    let timer = setTimeout(() => {
      timer = setTimeout(() => late.reject(tooLate()), UNREAD_MS);
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
      this.#rest();
    }
  }

  /** Ends the thread after a while, unless it is asked again. */
  #rest(): void {
    const { idleMs } = this.#options;
    if (idleMs === undefined || !this.#worker) return;
    this.#idle = setTimeout(() => void this.close(), idleMs);
    this.#idle.unref?.();
  }

  /** What the thread says next. @throws {BackendUnavailableError} when it dies instead */
  #next(worker: Worker): Promise<Reply> {
    const { task, name } = this.#options;
    const { promise, resolve, reject } = Promise.withResolvers<Reply>();
    const die = (why: string) =>
      reject(new BackendUnavailableError(`Cannot ${task}: the ${name} thread is gone, ${why}`));
    const onError = (error: unknown) => die(`it failed: ${error instanceof Error ? error.message : error}`);
    const onExit = (code: number) => die(`it ended with exit code ${code}`);
    worker.once("message", resolve).once("error", onError).once("exit", onExit);
    const forget = () => worker.off("message", resolve).off("error", onError).off("exit", onExit);
    promise.then(forget, forget);
    return promise;
  }
}

/** What a promise comes to, or the reason why nobody waits for it any more. */
async function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return await promise;
  const aborted = Promise.withResolvers<never>();
  const abort = () => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort);
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener("abort", abort);
  }
}
