import assert from "node:assert/strict";
import { readdir, readFile, rm, writeFile } from "node:fs/promises";
import { describe, test } from "node:test";
import { listModels, removeModel, verifyModel } from "../../src/hub/cached_models.ts";
import { parseRepoName } from "../../src/hub/repo_name.ts";
import { cache, cacheDir, NAME, pull, useHub, WEIGHTS, weightsId } from "./served_repo.ts";

useHub();

describe("the cache", () => {
  test("listModels(), verifyModel() and removeModel() see what was pulled", async () => {
    assert.deepEqual(await listModels(cacheDir), []);
    const { commit, bytes } = await pull();
    const snapshot = { commit, refs: ["main"], files: 5, variant: "q4" };
    assert.deepEqual(await listModels(cacheDir), [{ name: NAME, bytes, partialBytes: 0, snapshots: [snapshot] }]);
    const blob = cache().blob(await weightsId());
    const damaged = new Uint8Array(await readFile(blob));
    damaged[1234]! ^= 4;
    await writeFile(blob, damaged);
    const { files, bad } = await verifyModel(cacheDir, NAME);
    assert.equal(files, 5);
    assert.deepEqual(bad.map(({ path }) => path), [WEIGHTS]);
    await rm(blob);
    assert.match((await verifyModel(cacheDir, NAME)).bad[0]!.reason, /blob is missing/);
    await removeModel(cacheDir, NAME);
    assert.deepEqual(await readdir(cacheDir), []);
    await assert.rejects(removeModel(cacheDir, NAME), /^InvalidRequestError: Cannot find /);
  });

  test("parseRepoName() refuses what could become another folder", () => {
    assert.deepEqual(parseRepoName("a/b@v1.0"), { name: "a/b", revision: "v1.0" });
    for (
      const bad of ["a", "a/b/c", "../b", "a/..", "a/b--c", "a/.b", "a/b@../x", "a/b@/x", "a/b@", "a/b@x//y", "a b/c"]
    ) {
      assert.throws(() => parseRepoName(bad), { name: "InvalidRequestError" }, bad);
    }
  });
});
