import assert from "node:assert/strict";
import { mkdtemp, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { spawnServer, startServer } from "./this_runtime.ts";

test("a folder of sessions is one process's, until that ends, however it ends", async () => {
  const parent = await mkdtemp(join(tmpdir(), "hearth-server-"));
  const env = { DATA_DIR: join(parent, "data") };
  try {
    await using first = await startServer(env);
    await using second = spawnServer(env);
    assert.equal(await second.exited, 1);
    assert.match(second.output(), /^Cannot open \S+: another process has it, wanted one at a time; .+\n$/);
    assert.equal((await stat(join(env.DATA_DIR, "lock"))).mode & 0o777, 0o600);
    assert.equal((await fetch(`${first.url}/v1/sessions`)).status, 200, "the first does not notice");

    process.kill(first.child.pid!, "SIGKILL");
    await first.exited;
    await using third = await startServer(env);
    assert.equal((await fetch(`${third.url}/v1/sessions`)).status, 200);
    process.kill(third.child.pid!, "SIGTERM");
    assert.equal(await third.exited, 0);
    await using fourth = await startServer(env);
    assert.equal((await fetch(`${fourth.url}/v1/sessions`)).status, 200);
  } finally {
    await rm(parent, { recursive: true, force: true });
  }
});
