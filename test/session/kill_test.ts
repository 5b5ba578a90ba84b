import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { durableEngine } from "../fakes/durable_engine.ts";
import { DURABLE, SESSIONS } from "./killed_process.ts";

const KILLS = 8;

/** Runs `killed_process.ts` until so many turns are acknowledged, and kills it. @returns ids by session */
async function runAndKill(dataDir: string, turns: number): Promise<Map<string, number[]>> {
  const script = join(import.meta.dirname, "killed_process.ts");
  const args = "Deno" in globalThis ? ["run", "-A", "--no-check", script] : [script];
  const child = spawn(process.execPath, [...args, dataDir], { stdio: ["ignore", "pipe", "inherit"] });
  const acknowledged = new Map<string, number[]>();
  let count = 0;
  const exited = once(child, "close");
  for await (const line of createInterface({ input: child.stdout! })) {
    const { id, ids } = JSON.parse(line) as { id: string; ids: number[] };
    acknowledged.set(id, ids);
    // Not at once: the next turns and parks are then on their way.
    if (++count === turns) setTimeout(() => child.kill("SIGKILL"), turns % 5);
  }
  const [, signal] = await exited;
  assert.equal(signal, "SIGKILL");
  return acknowledged;
}

test("after kill -9 every acknowledged turn is there, and at most one more", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "hearth-kill-"));
  try {
    for (let kill = 0; kill < KILLS; kill++) {
      const acknowledged = await runAndKill(dataDir, 3 + kill * 4);
      const { engine, files, backend } = await durableEngine(dataDir, DURABLE);
      assert.deepEqual(files.recovered.unreadable, []);
      for (const id of SESSIONS) {
        const { ids, turns } = engine.sessions.inspect(id);
        const told = acknowledged.get(id) ?? [];
        assert.deepEqual(ids.slice(0, told.length), told, `session ${id} after kill ${kill}`);
        assert.ok(turns.filter(({ end }) => end > told.length).length <= 1 || told.length === 0);
        // What was parked is KV of just these tokens.
        const session = { id, mode: "append" as const };
        for await (const event of engine.generate({ prompt: { ids: [7] }, maxTokens: 1, ignoreEos: true, session })) {
          if (event.type === "token") assert.equal(event.id, backend.next([...ids, 7]));
        }
      }
    }
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
