/** The runtime that runs the tests: each suite tests its own listener. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Listen } from "../../src/runtime/server.ts";

const isDeno = "Deno" in globalThis;
const root = join(import.meta.dirname, "..", "..");

/** This runtime's listener. */
export const { listen } = await import(isDeno ? "../../src/runtime/deno.ts" : "../../src/runtime/bun.ts") as {
  listen: Listen;
};

/** What {@linkcode startServer} started. */
export interface ServerProcess extends AsyncDisposable {
  child: ChildProcess;
  /** All that it has printed so far. */
  output(): string;
  /** The URL, once it is ready. */
  url: string;
  /** Resolves to the exit status; to null after a signal, or where it could not be started. */
  exited: Promise<number | null>;
}

/** Runs the server as its users do, in a process of its own, on a free port unless `env` has one. */
export function spawnServer(env: Record<string, string> = {}): Omit<ServerProcess, "url"> {
  const entry = isDeno ? ["run", "-A", "--no-check", "src/runtime/deno.ts"] : ["src/runtime/bun.ts"];
  // Deno's process.execPath is Deno, Bun's is Bun.
  const child = spawn(process.execPath, entry, {
    cwd: root,
    env: { ...process.env, HOST: "", API_KEY: "", PORT: "0", ...env },
  });
  let printed = "";
  child.stdout!.on("data", (chunk) => printed += chunk);
  child.stderr!.on("data", (chunk) => printed += chunk);
  const exited = once(child, "exit").then(([code]) => code as number | null, (error) => {
    printed += error;
    return null;
  });
  return {
    child,
    output: () => printed,
    exited,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await exited;
    },
  };
}

/** {@linkcode spawnServer}, and waits until the model is loaded. */
export async function startServer(env: Record<string, string> = {}): Promise<ServerProcess> {
  const server = spawnServer(env);
  let code: number | null | undefined;
  server.exited.then((status) => code = status);
  for (;;) {
    const url = /Hearth on (http:\/\/\S+)/.exec(server.output())?.[1];
    if (url && server.output().includes("curl -N")) return { ...server, url };
    if (code !== undefined) throw new Error(`the server ended with ${code}: ${server.output()}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
