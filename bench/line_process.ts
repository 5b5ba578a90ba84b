import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/** A program that answers each line of its input with a line, both JSON; between two it waits and costs nothing. */
export class LineProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** Starts `script` in this runtime, or in the program at `runtime`. */
  constructor(readonly script: string, args: readonly string[] = [], runtime: string = process.execPath) {
    const needsFlags = /deno(\.exe)?$/.test(runtime) ? ["run", "-A", "--no-check"] : [];
    this.#child = spawn(runtime, [...needsFlags, script, ...args], { stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** @throws {Error} when the program ended instead */
  async ask(request: unknown): Promise<unknown> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    const { done, value } = await this.#lines.next();
    if (done) throw new Error(`Cannot measure: ${this.script} ended with status ${this.#child.exitCode}`);
    return JSON.parse(value);
  }

  /** Closes its input and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    this.#child.stdin!.end();
    await once(this.#child, "exit");
  }
}
