/**
 * Adds turns to a session until the disk refuses one: `full_disk_process.ts folder`. Prints as JSON what it was told and
 * what the session is after that.
 */
import { writeSync } from "node:fs";
import { StorageError } from "../../src/errors.ts";
import { durableEngine } from "../fakes/durable_engine.ts";

const { engine } = await durableEngine(process.argv[2]!);
await engine.sessions.create({ id: "s" });
const ids = Array.from({ length: 300 }, (_, i) => i % 50);
let acknowledged: number[] = [];
let refused: unknown;
while (!refused) {
  try {
    const session = { id: "s", mode: "append" as const };
    for await (const event of engine.generate({ prompt: { ids }, maxTokens: 2, ignoreEos: true, session })) {
      if (event.type === "end") acknowledged = engine.sessions.inspect("s").ids;
    }
  } catch (error) {
    refused = error;
  }
}
const { ids: after, busy } = engine.sessions.inspect("s");
writeSync(
  1,
  JSON.stringify({ acknowledged, after, busy, isStorageError: refused instanceof StorageError, message: `${refused}` }),
);
process.exit(0);
