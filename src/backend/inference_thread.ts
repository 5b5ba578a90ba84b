import { BackendUnavailableError, ModelFileError, OutOfMemoryError } from "../errors.ts";
import { Worker } from "../host/threads.ts";
import type { BackendStats, RowResult } from "./backend.ts";
import type { HelperThreads } from "./helper_threads.ts";
import type { SessionRow } from "./model_session.ts";
import type { Reply, Request } from "./thread_protocol.ts";

const ERRORS: Readonly<Record<string, new (message: string) => Error>> = {
  ModelFileError,
  OutOfMemoryError,
  BackendUnavailableError,
  RangeError,
};

/** How long a pass may hold up the end of its thread, in milliseconds. */
const CLOSE_MS = 5000;

type RequestOf<T extends Request["type"]> = Extract<Request, { type: T }>;

/** A thread with a model in it, and what it says of both. */
export type StartedThread = { thread: InferenceThread } & Extract<Reply, { type: "ready" }>;

/** Options of {@linkcode InferenceThread.start}. */
export interface StartOptions {
  onProgress?: LoadProgress;
  /** Threads that help it; they are the inference thread's from now on, and end with it. */
  helpers?: HelperThreads;
}

/** This side of the inference thread: one request in flight at a time. Ends with `close()`. */
export class InferenceThread {
  readonly #worker: Worker;
  readonly #helpers: HelperThreads | undefined;
  #waiting: { resolve(reply: Reply): void; reject(error: Error): void } | undefined;
  #dead: Error | undefined;
  readonly #died = Promise.withResolvers<Error>();
  #exited = false;

  private constructor(worker: Worker, { onProgress, helpers }: StartOptions) {
    this.#worker = worker;
    this.#helpers = helpers;
    helpers?.hear((said) => this.#exited || this.#post({ type: "helper", said }));
    worker.on("message", (reply: Reply) => {
      if (reply.type === "progress") onProgress?.(reply.step, reply.fraction);
      else if (reply.type === "tell") helpers?.tell(reply.message);
      else if (reply.type === "failed") this.#die(reply.message);
      else this.#settle(reply);
    });
    worker.on("error", (error) => this.#die(`it failed: ${error instanceof Error ? error.message : error}`));
    worker.on("exit", (code) => {
      this.#exited = true;
      helpers?.end();
      this.#die(`it ended with exit code ${code}`);
    });
  }

  /**
   * Starts the thread and loads the model in it.
   * @param entry the thread's program, which calls `serveThread`
   * @param workerData what it needs to load the model
   * @throws what loading throws
   */
  static async start(entry: URL, workerData: unknown, options: StartOptions = {}): Promise<StartedThread> {
    const worker = new Worker(entry, { workerData });
    const thread = new InferenceThread(worker, options);
    try {
      const reply = await thread.#reply();
      if (reply.type !== "ready") throw errorOf(reply);
      return { thread, ...reply };
    } catch (error) {
      thread.#die("it did not start");
      await Promise.all([worker.terminate(), options.helpers?.end()]);
      throw error;
    }
  }

  /**
   * Runs a pass. The caller sees to it that only one is running.
   * @throws {BackendUnavailableError} when the thread died
   */
  async run(rows: readonly SessionRow[]): Promise<RowResult[]> {
    return (await this.#ask({ type: "run", rows }, "results")).results;
  }

  /**
   * A part of a cache's bytes, in a buffer that is lent and comes back. The caller sees to it, here and below, that
   * nothing else is asked.
   */
  async export(request: RequestOf<"export">): Promise<Extract<Reply, { type: "exported" }>> {
    return await this.#ask(request, "exported", request.buffer ? [request.buffer] : []);
  }

  /** Makes a cache of what `export` gave, part by part. @returns the buffer, which is lent */
  async import(request: RequestOf<"import">): Promise<ArrayBuffer> {
    return (await this.#ask(request, "imported", [request.buffer])).buffer;
  }

  async stats(): Promise<BackendStats> {
    return (await this.#ask({ type: "stats" }, "stats")).stats;
  }

  async #ask<T extends Reply["type"]>(
    request: Request,
    wanted: T,
    transfer: readonly ArrayBuffer[] = [],
  ): Promise<Extract<Reply, { type: T }>> {
    if (this.#dead) throw this.#dead;
    const reply = this.#reply();
    this.#post(request, transfer);
    const answer = await reply;
    if (answer.type !== wanted) throw errorOf(answer);
    return answer as Extract<Reply, { type: T }>;
  }

  /** Resolves to why it is gone. */
  get died(): Promise<Error> {
    return this.#died.promise;
  }

  /** Why it is gone, once it is. */
  get failure(): Error | undefined {
    return this.#dead;
  }

  /** Makes a second cache; the thread gets to it in its turn. */
  fork(cacheId: number, toId: number, length: number): void {
    if (!this.#dead) this.#post({ type: "fork", cacheId, toId, length });
  }

  /** Gives a cache back; the thread gets to it after the pass in flight. */
  free(cacheId: number): void {
    if (!this.#dead) this.#post({ type: "free", cacheId });
  }

  /** Lets the pass in flight end, for a while, then ends the thread and its helpers. What waits is rejected at once. */
  async close(): Promise<void> {
    this.#die("the backend was closed");
    if (!this.#exited) await this.#end();
    await this.#helpers?.end();
  }

  async #end(): Promise<void> {
    const exit = new Promise((resolve) => this.#worker.once("exit", resolve));
    this.#post({ type: "close" });
    const timer = setTimeout(() => this.#worker.terminate(), CLOSE_MS);
    await exit;
    clearTimeout(timer);
  }

  #post(request: Request, transfer: readonly ArrayBuffer[] = []): void {
    this.#worker.postMessage(request, transfer);
  }

  #reply(): Promise<Reply> {
    return new Promise((resolve, reject) => this.#waiting = { resolve, reject });
  }

  #settle(reply: Reply): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve(reply);
  }

  #die(why: string): void {
    this.#dead ??= new BackendUnavailableError(`Cannot run the model: the inference thread is gone, ${why}`);
    this.#died.resolve(this.#dead);
    this.#waiting?.reject(this.#dead);
    this.#waiting = undefined;
  }
}

/** Called while a model loads, with what is being done and how far it is, 0 to 1. */
export type LoadProgress = (step: string, fraction: number) => void;

function errorOf(reply: Reply): Error {
  if (reply.type !== "error") return new Error(`Cannot read the inference thread's reply: it is "${reply.type}"`);
  return new (ERRORS[reply.name] ?? Error)(reply.message);
}
