import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { spawnGroup } from "./process_group.ts";

/** Ten minutes with the pipe in hand. */
const SLEEP = "sleep 600; true";

/** Resolves to its status and signal when nobody holds its pipe any more; rejects when somebody goes on. */
async function closed(child: ChildProcess): Promise<[code: number | null, signal: string | null]> {
  const [code, signal] = await once(child, "close", { signal: AbortSignal.timeout(60_000) });
  return [code, signal];
}

test("spawnGroup() ends what takes too long, and what that has started", async () => {
  const child = spawnGroup("sh", ["-c", `(${SLEEP}) & ${SLEEP}`], { stdio: ["ignore", "pipe", "inherit"] }, 300);
  child.stdout!.resume();
  assert.deepEqual(await closed(child), [null, "SIGKILL"]);
});

test("spawnGroup() leaves alone what ends in time", async () => {
  const child = spawnGroup("sh", ["-c", "exit 3"], {}, 60_000);
  assert.deepEqual(await closed(child), [3, null]);
});

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`spawnGroup() ends what runs at ${signal}, and its own process`, async () => {
    const module = JSON.stringify(new URL("./process_group.ts", import.meta.url));
    const program = `import { spawnGroup } from ${module};
      spawnGroup("sh", ["-c", "echo started; ${SLEEP}"], { stdio: "inherit" }, 60_000);`;
    const args = "Deno" in globalThis ? ["eval", "--no-check", program] : ["--eval", program];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
    await once(child.stdout, "data");
    process.kill(child.pid!, signal);
    assert.deepEqual(await closed(child), [1, null]);
  });
}
