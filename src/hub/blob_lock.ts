import { readFile, rm, stat, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** How often a holder shows that it lives, and how long its silence may be, in milliseconds. */
const BEAT_MS = 3000;
const SILENT_MS = 15_000;
const POLL_MS = 200;

/**
 * Waits until no other process writes to `partial`, and keeps others away until it is disposed: two that share a cache
 * may start at the same time. The lock is a file beside it. One that a killed process left is taken over: at once on
 * the same machine, after 15 s of silence where its holder cannot be asked.
 */
export async function lockPartial(partial: string, signal?: AbortSignal): Promise<AsyncDisposable> {
  const path = `${partial}.lock`;
  const me = `${hostname()} ${process.pid} ${crypto.randomUUID()}`;
  for (;;) {
    try {
      await writeFile(path, me, { flag: "wx" });
      break;
    } catch (cause) {
      if ((cause as { code?: string }).code !== "EEXIST") throw cause;
      if (!await isLeft(path) || !await removeLeft(path)) await sleep(POLL_MS, undefined, { signal });
    }
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => {});
  }, BEAT_MS);
  beat.unref?.();
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(beat);
      if (await readFile(path, "utf8").catch(() => "") === me) await rm(path, { force: true });
    },
  };
}

/**
 * Removes a lock that was left. One process at a time: of two that saw it, the slower one would remove the lock that the
 * faster one has made since. What a process leaves that is killed meanwhile is removed later.
 * @returns whether it was this one's turn
 */
async function removeLeft(path: string): Promise<boolean> {
  const turn = `${path}.left.lock`;
  try {
    await writeFile(turn, "", { flag: "wx" });
  } catch (cause) {
    if ((cause as { code?: string }).code !== "EEXIST") throw cause;
    if (await isLeft(turn)) await rm(turn, { force: true });
    return false;
  }
  try {
    if (await isLeft(path)) await rm(path, { force: true });
  } finally {
    await rm(turn, { force: true });
  }
  return true;
}

async function isLeft(path: string): Promise<boolean> {
  const [text, found] = await Promise.all([readFile(path, "utf8").catch(() => ""), stat(path).catch(() => undefined)]);
  if (!found) return false;
  const [host, pid] = text.split(" ");
  if (host === hostname() && Number(pid) > 0 && !isAlive(Number(pid))) return true;
  // Also where its number is another process's now: in containers all are 1.
  return Date.now() - found.mtimeMs > SILENT_MS;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    // Another user's process is alive too.
    return (cause as { code?: string }).code === "EPERM";
  }
}
