/**
 * Adds turns to its sessions and parks them, until it is killed: `killed_process.ts folder`. Prints a line of JSON for
 * each turn that was acknowledged.
 */
import { writeSync } from "node:fs";
import { durableEngine } from "../fakes/durable_engine.ts";

export const SESSIONS = ["a", "b"];
export const DURABLE = { parkedBudgetBytes: 2 ** 20, parking: { pays: () => true } };

async function addTurns(dataDir: string): Promise<never> {
  const { engine } = await durableEngine(dataDir, DURABLE);
  for (const id of SESSIONS) {
    if (!engine.sessions.list().some((one) => one.id === id)) await engine.sessions.create({ id });
  }
  for (let n = 0;; n++) {
    await Promise.all(SESSIONS.map(async (id) => {
      const session = { id, mode: "append" as const };
      for await (
        const event of engine.generate({ prompt: { ids: [n % 50, 3] }, maxTokens: 3, ignoreEos: true, session })
      ) {
        if (event.type === "end") writeSync(1, JSON.stringify({ id, ids: engine.sessions.inspect(id).ids }) + "\n");
      }
      await engine.sessions.park(id);
    }));
  }
}

if (process.argv[2] !== undefined && process.argv[1]?.endsWith("killed_process.ts")) await addTurns(process.argv[2]);
