import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { durableEngine } from "../fakes/durable_engine.ts";

/** Blocks of 512 bytes that a file of the process may have: the write that goes beyond is cut short and refused. */
const FILE_BLOCKS = 32;

test("a turn that the disk has no room for is rolled back, and all before it are there", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "hearth-full-"));
  try {
    const script = join(import.meta.dirname, "full_disk_process.ts");
    const runtime = "Deno" in globalThis ? [process.execPath, "run", "-A", "--no-check"] : [process.execPath];
    const limited = `trap '' XFSZ; ulimit -f ${FILE_BLOCKS}; exec "$@"`;
    const { stdout } = await promisify(execFile)("sh", ["-c", limited, "sh", ...runtime, script, dataDir]);
    const { acknowledged, after, busy, isStorageError, message } = JSON.parse(stdout);
    assert.ok(isStorageError, message);
    assert.match(message, /Cannot keep the turn on disk/);
    assert.ok(acknowledged.length > 1000, "some turns fit");
    assert.deepEqual([after, busy], [acknowledged, false]);
    const { engine, files } = await durableEngine(dataDir);
    assert.deepEqual(files.recovered.unreadable, []);
    assert.deepEqual(engine.sessions.inspect("s").ids, acknowledged);
    const session = { id: "s", mode: "append" as const };
    for await (const _ of engine.generate({ prompt: { ids: [1] }, maxTokens: 1, session }));
    assert.equal(engine.sessions.inspect("s").ids.length > acknowledged.length, true);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
