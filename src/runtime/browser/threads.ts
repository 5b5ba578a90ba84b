/**
 * In a page's bundle this takes the place of `host/threads.ts`: what is used of `node:worker_threads`, by the browser's
 * workers. They all run `hearth_worker.js`, which lies beside the bundle and is told which program it is.
 */

/** What a thread is told first. */
interface Start {
  /** Such as `simd/inference_worker.ts`. */
  program: string;
  workerData: unknown;
}

/** What a thread says. */
type Said = { message: unknown } | { error: string } | { exit: number };

interface Events {
  message: unknown;
  error: Error;
  exit: number;
}
type Listener<T> = (value: T) => void;

/** This side of a thread. */
export class Worker {
  readonly #worker: globalThis.Worker;
  /** By event, with whether they are called once only. */
  readonly #listeners: { [E in keyof Events]: Map<Listener<Events[E]>, boolean> } = {
    message: new Map(),
    error: new Map(),
    exit: new Map(),
  };
  #ended = false;

  /** @param entry its last two parts name the program, whatever folder the bundle lies in */
  constructor(entry: URL, { workerData }: { workerData?: unknown } = {}) {
    const program = entry.pathname.split("/").slice(-2).join("/");
    this.#worker = new globalThis.Worker(new URL("./hearth_worker.js", import.meta.url), {
      type: "module",
      name: program,
    });
    this.#worker.onmessage = ({ data }: MessageEvent<Said>) => {
      if ("message" in data) this.#emit("message", data.message);
      else if ("error" in data) this.#fail(data.error);
      else this.#end(data.exit);
    };
    this.#worker.onmessageerror = () => this.#fail("what it said could not be read");
    // A script that does not load has no message.
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#fail(event.message ?? "hearth_worker.js could not be loaded");
    };
    this.#worker.postMessage({ program, workerData } satisfies Start);
  }

  on<E extends keyof Events>(event: E, listener: Listener<Events[E]>): this {
    this.#listeners[event].set(listener, false);
    return this;
  }

  once<E extends keyof Events>(event: E, listener: Listener<Events[E]>): this {
    this.#listeners[event].set(listener, true);
    return this;
  }

  off<E extends keyof Events>(event: E, listener: Listener<Events[E]>): this {
    this.#listeners[event].delete(listener);
    return this;
  }

  postMessage(message: unknown): void {
    this.#worker.postMessage(message);
  }

  terminate(): Promise<number> {
    this.#worker.terminate();
    this.#end(1);
    return Promise.resolve(1);
  }

  /** A page ends with its threads. */
  ref(): void {}
  unref(): void {}

  #fail(message: string): void {
    if (this.#ended) return;
    this.#emit("error", new Error(message));
    this.terminate();
  }

  #end(code: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#emit("exit", code);
  }

  #emit<E extends keyof Events>(event: E, value: Events[E]): void {
    for (const [listener, once] of [...this.#listeners[event]]) {
      if (once) this.off(event, listener);
      listener(value);
    }
  }
}

const say = (said: Said, transfer: Transferable[] = []) => self.postMessage(said, { transfer });

/** What came before the program listened. */
let unheard: unknown[] | undefined = [];
let hear: Listener<unknown> = (message) => unheard?.push(message);

/** The other side of a thread, in it. */
export const parentPort = {
  postMessage: (message: unknown, transfer?: Transferable[]): void => say({ message }, transfer),
  /** One listener. */
  on: (_event: "message", listener: Listener<unknown>): void => {
    hear = listener;
    unheard?.forEach(listener);
    unheard = undefined;
  },
};

/** What the thread's program was given; set before it is loaded. */
export let workerData: unknown;

/** Ends the thread that calls it, and only that. What it does until it returns to the event loop is still done. */
export function exitThread(code: number): void {
  say({ exit: code });
  self.close();
}

/** Makes this thread the one that it is asked to be. @param programs by the last two parts of their address */
export function becomeProgram(programs: Readonly<Record<string, () => Promise<unknown>>>): void {
  const fail = (error: unknown) => say({ error: error instanceof Error ? error.message : String(error) });
  // Elsewhere a thread ends of a promise that fails and that nobody waits for; here it would go on, and say nothing.
  self.onunhandledrejection = ({ reason }) => fail(reason);
  self.onmessage = async ({ data }: MessageEvent<Start>) => {
    self.onmessage = ({ data }) => hear(data);
    workerData = data.workerData;
    try {
      await programs[data.program]!();
    } catch (error) {
      fail(error);
    }
  };
}
