import { type ChildProcess, spawn, type SpawnOptions } from "node:child_process";

const running = new Set<ChildProcess>();
let listening = false;

/**
 * Starts a command as `spawn` does, in a process group of its own. After `limitMs` it is killed with all that it has
 * started, which would hold its pipes open; so it is when a signal ends this process, since Ctrl-C reaches one group.
 */
export function spawnGroup(command: string, args: string[], options: SpawnOptions, limitMs: number): ChildProcess {
  if (!listening) killAtSignals();
  const child = spawn(command, args, { ...options, detached: true });
  running.add(child);
  const timer = setTimeout(() => killGroup(child), limitMs);
  const forget = () => {
    clearTimeout(timer);
    running.delete(child);
  };
  child.once("close", forget).once("error", forget);
  return child;
}

function killAtSignals(): void {
  listening = true;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => {
      for (const child of running) killGroup(child);
      process.exit(1);
    });
  }
}

function killGroup({ pid }: ChildProcess): void {
  try {
    // A negative number means the group of that number.
    process.kill(-pid!, "SIGKILL");
  } catch {
    // It has just ended.
  }
}
