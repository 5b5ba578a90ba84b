import { join } from "node:path";
import { LineProcess, type LineProcessOptions } from "../line_process.ts";
import type { PeerReply, PeerRequest, PeerStart, PeerTask } from "./peer.ts";

/** How to start a peer. */
export interface PeerScript extends Required<Pick<LineProcessOptions, "runtime">> {
  /** A file of this folder without its ending, and its arguments. */
  script: readonly [string, ...string[]];
}

/** A peer in a process of its own, which stays up and works only while it is asked. */
export class PeerProcess implements AsyncDisposable {
  readonly #process: LineProcess;

  private constructor(process: LineProcess) {
    this.#process = process;
  }

  get name(): string {
    return this.#process.name;
  }

  /** Starts a peer and waits until its model is loaded. */
  static async start(
    name: string,
    { script: [file, ...args], runtime }: PeerScript,
    task: PeerTask,
  ): Promise<[PeerProcess, PeerStart]> {
    const env = { PEER_TASK: JSON.stringify(task) };
    const process = new LineProcess(name, join(import.meta.dirname!, `${file}.ts`), { args, runtime, env });
    return [new PeerProcess(process), await process.read<PeerStart>()];
  }

  async ask(request: PeerRequest): Promise<PeerReply> {
    return await this.#process.ask<PeerReply>(request);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#process[Symbol.asyncDispose]();
  }
}
