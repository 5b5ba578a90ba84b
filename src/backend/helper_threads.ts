import { Worker } from "../host/threads.ts";
import { Mailbox } from "./mailbox.ts";

/** What a helper says, or that it is gone before its time, and why. */
export type HelperMessage = { message: unknown } | { failed: string };

/** Threads that wait to be told what to help with, as the thread sees them that they are for. */
export interface Helpers {
  /** Tells each the same. */
  tell(message: unknown): void;
  /** Calls `listener` with what they say, what they said before included. One listener. */
  hear(listener: (message: HelperMessage) => void): void;
}

/** Helpers of this thread, or of another one that `InferenceThread` relays for. Ends with `end()`. */
export class HelperThreads implements Helpers {
  readonly #workers: readonly Worker[];
  readonly #said = new Mailbox<HelperMessage>();
  #ended = false;

  /** @param entry their program; `workerData` is its number, from 1 on */
  constructor(entry: URL, count: number) {
    this.#workers = Array.from({ length: count }, (_, i) => {
      const worker = new Worker(entry, { workerData: i + 1 });
      worker.on("message", (message) => this.#say({ message }));
      worker.once("error", (error) => this.#say({ failed: error instanceof Error ? error.message : `${error}` }));
      worker.once("exit", () => this.#say({ failed: "it ended by itself" }));
      return worker;
    });
  }

  tell(message: unknown): void {
    for (const worker of this.#workers) worker.postMessage(message);
  }

  hear(listener: (message: HelperMessage) => void): void {
    this.#said.hear(listener);
  }

  /** Ends them, whatever they do. Idempotent. */
  async end(): Promise<void> {
    this.#ended = true;
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }

  #say(message: HelperMessage): void {
    if (!this.#ended) this.#said.put(message);
  }
}
