import assert from "node:assert/strict";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { StorageError } from "../../src/errors.ts";
import { FolderLock } from "../../src/session/folder_lock.ts";

test("FolderLock is one's at a time, and the next one's once it is disposed", async () => {
  const parent = await mkdtemp(join(tmpdir(), "hearth-lock-"));
  const folder = join(parent, "data");
  try {
    const first = await FolderLock.take(folder);
    await assert.rejects(FolderLock.take(folder), (error: Error) => {
      assert.ok(error instanceof StorageError);
      assert.match(error.message, /^Cannot open \S+data: another process has it, wanted one at a time/);
      return true;
    });
    assert.deepEqual([(await stat(folder)).mode & 0o777, (await stat(join(folder, "lock"))).mode & 0o777], [
      0o700,
      0o600,
    ]);
    first[Symbol.dispose]();
    first[Symbol.dispose]();
    using _second = await FolderLock.take(folder);
    await assert.rejects(FolderLock.take(folder), StorageError, "disposing twice takes nothing from the next");
  } finally {
    await rm(parent, { recursive: true });
  }
});

test("FolderLock says why a folder cannot be used", async () => {
  const parent = await mkdtemp(join(tmpdir(), "hearth-lock-"));
  try {
    await writeFile(join(parent, "file"), "");
    await assert.rejects(FolderLock.take(join(parent, "file")), /^StorageError: Cannot open \S+file: EEXIST/);
  } finally {
    await rm(parent, { recursive: true });
  }
});
