import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { PeerReply, PeerRequest, PeerStart, PeerTask } from "./peer.ts";

/** How to start a peer. */
export interface PeerScript {
  /** A file of this folder without its ending, and its arguments. */
  script: readonly [string, ...string[]];
  /** `"page"`: the runtime that runs the page. Others are the same in both pages. */
  runtime: "page" | "bun";
}

/** A peer in a process of its own, which stays up and works only while it is asked. */
export class PeerProcess implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  private constructor(readonly name: string, { script: [file, ...args], runtime }: PeerScript, task: PeerTask) {
    const [command, ...flags] = runtime === "bun" ? bunCommand() : pageCommand();
    this.#child = spawn(command!, [...flags, join(import.meta.dirname!, `${file}.ts`), ...args], {
      env: { ...process.env, PEER_TASK: JSON.stringify(task) },
      stdio: ["pipe", "pipe", "inherit"],
    });
    this.#lines = createInterface({ input: this.#child.stdout! })[Symbol.asyncIterator]();
  }

  /** Starts a peer and waits until its model is loaded. */
  static async start(name: string, script: PeerScript, task: PeerTask): Promise<[PeerProcess, PeerStart]> {
    const peer = new PeerProcess(name, script, task);
    return [peer, await peer.#read<PeerStart>()];
  }

  async ask(request: PeerRequest): Promise<PeerReply> {
    this.#child.stdin!.write(JSON.stringify(request) + "\n");
    return await this.#read<PeerReply>();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const closed = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stdin!.end();
    await closed;
  }

  /** The next line that is a document: libraries print others. */
  async #read<T>(): Promise<T> {
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error(`Cannot measure ${this.name}: its process ended, wanted an answer`);
      if (value.startsWith("{")) return JSON.parse(value);
    }
  }
}

function pageCommand(): string[] {
  return [process.execPath, ...(process.versions.deno ? ["run", "-A", "--no-check"] : [])];
}

function bunCommand(): string[] {
  if (process.versions.bun) return [process.execPath];
  return [join(import.meta.dirname!, "..", "..", "node_modules", "bun", "bin", "bun.exe")];
}
