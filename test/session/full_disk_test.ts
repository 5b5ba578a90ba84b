import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { durableEngine } from "../fakes/durable_engine.ts";

/**
 * Shells in which `"$@"`, whose last argument is `$FOLDER`, has little room there. The tmpfs is this shell's alone and
 * gone with it: what is there at the end is copied to `$KEPT`.
 */
const SMALL_DISKS = {
  // In blocks of 512 bytes: the write that goes beyond is cut short and refused.
  "a limit of file sizes": ["sh", "-c", `trap '' XFSZ; (ulimit -f 32; "$@") && cp -a "$FOLDER/." "$KEPT"`],
  "a small tmpfs": [
    "unshare",
    "--mount",
    "sh",
    "-c",
    `mount -t tmpfs -o size=32k none "$FOLDER" && "$@" && cp -a "$FOLDER/." "$KEPT"`,
  ],
};
const run = promisify(execFile);

for (const [name, [command, ...shell]] of Object.entries(SMALL_DISKS)) {
  test(`a turn that the disk has no room for is rolled back, and all before it are there: ${name}`, async (t) => {
    const folder = await mkdtemp(join(tmpdir(), "hearth-full-"));
    const dataDir = await mkdtemp(join(tmpdir(), "hearth-kept-"));
    const inShell = (...args: string[]) =>
      run(command!, [...shell, "sh", ...args], { env: { ...process.env, FOLDER: folder, KEPT: dataDir } });
    try {
      const refused = await inShell("true").then(() => undefined, (error: Error) => error.message);
      if (refused !== undefined) return t.skip(`it takes the right to mount: ${refused}`);
      const script = join(import.meta.dirname, "full_disk_process.ts");
      const runtime = "Deno" in globalThis ? [process.execPath, "run", "-A", "--no-check"] : [process.execPath];
      const { stdout } = await inShell(...runtime, script, folder);
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
      for (const path of [folder, dataDir]) await rm(path, { recursive: true, force: true });
    }
  });
}
