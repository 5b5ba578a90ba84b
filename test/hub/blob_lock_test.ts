import assert from "node:assert/strict";
import { mkdtemp, readdir, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { after, describe, test } from "node:test";
import { lockPartial } from "../../src/hub/blob_lock.ts";

const folder = await mkdtemp(join(tmpdir(), "hearth-lock-"));
after(() => rm(folder, { recursive: true }));
/** More than Linux gives out. */
const NO_PROCESS = 2 ** 22 + 1;

describe("lockPartial()", () => {
  test("has one holder at a time, also where several find a lock that was left", async () => {
    const partials = Array.from({ length: 10 }, (_, i) => join(folder, `${i}`));
    await Promise.all(partials.map(async (partial) => {
      await writeFile(`${partial}.lock`, `${hostname()} ${NO_PROCESS} x`);
      let holders = 0;
      await Promise.all(Array.from({ length: 4 }, async () => {
        await using _lock = await lockPartial(partial);
        holders++;
        await sleep(5);
        assert.equal(holders--, 1);
      }));
    }));
    assert.deepEqual(await readdir(folder), []);
  });

  test("goes on where one was killed while it removed a lock", async () => {
    const partial = join(folder, "a");
    for (const path of [`${partial}.lock`, `${partial}.lock.left.lock`]) {
      await writeFile(path, path.endsWith(".left.lock") ? "" : `${hostname()} ${NO_PROCESS} x`);
      await utimes(path, 0, 0);
    }
    await (await lockPartial(partial))[Symbol.asyncDispose]();
    assert.deepEqual(await readdir(folder), []);
  });
});
