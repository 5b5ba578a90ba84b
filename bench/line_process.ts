import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

/** Options of {@linkcode LineProcess}. */
export interface LineProcessOptions {
  args?: readonly string[];
  /** `"page"`: the runtime of this process. What runs on Bun is the same in pages of both runtimes. @default "page" */
  runtime?: "page" | "bun";
  /** Beside this process's own. */
  env?: Readonly<Record<string, string>>;
}

/** A program that answers each line of its input with a line, both JSON; between two it waits and costs nothing. */
export class LineProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  /** @param name what errors call it */
  constructor(
    readonly name: string,
    script: string,
    { args = [], runtime = "page", env = {} }: LineProcessOptions = {},
  ) {
    const [command, ...flags] = runtime === "bun" ? bunCommand() : pageCommand();
    this.#child = spawn(command!, [...flags, script, ...args], {
      env: { ...process.env, ...env },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /**
   * The next line that is a document: libraries print others.
   * @throws {Error} when the program ended instead
   */
  async read<T>(): Promise<T> {
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`Cannot measure ${this.name}: its process ended, wanted an answer`);
      if (/^[{[\d]/.test(value)) return JSON.parse(value);
    }
  }

  async ask<T>(request: unknown): Promise<T> {
    this.#child.stdin!.write(`${JSON.stringify(request)}\n`);
    return await this.read<T>();
  }

  /** Closes its input and waits for its end. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stdin!.end();
    await closed;
  }
}

function pageCommand(): string[] {
  return [process.execPath, ...(process.versions.deno ? ["run", "-A", "--no-check"] : [])];
}

function bunCommand(): string[] {
  if (process.versions.bun) return [process.execPath];
  return [join(import.meta.dirname!, "..", "node_modules", "bun", "bin", "bun.exe")];
}
