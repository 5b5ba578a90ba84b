/**
 * The cache that `models pull` writes, as Python's `huggingface_hub` reads it.
 * Ends in one line, `N passed, N failed`.
 *
 *   PYTHON=python3 bun test/parity/hub_cache.ts
 */
import { execFile } from "node:child_process";
import assert from "node:assert/strict";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { MemoryStore } from "../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { verifyModel } from "../../src/hub/cached_models.ts";
import { pullModel } from "../../src/hub/pull_model.ts";
import { parseRepoName } from "../../src/hub/repo_name.ts";
import { LocalHub } from "../hub/local_hub.ts";

/** What `hub_cache.py` prints. */
interface Scanned {
  warnings: string[];
  repos: { id: string; size: number; commits: Record<string, { refs: string[]; files: string[] }> }[];
  found: Record<string, string | null>;
}

const store = new MemoryStore();
writeSyntheticOnnx(store, { size: "tiny", seed: 3 }, "hub");
await using hub = await LocalHub.start("tiny/Phi-3_tiny", store.files());
const cacheDir = await mkdtemp(join(tmpdir(), "hearth-cache-parity-"));
const counts = { passed: 0, failed: 0 };

async function check(name: string, body: () => Promise<void>): Promise<void> {
  try {
    await body();
    counts.passed++;
    console.log(`ok   ${name}`);
  } catch (error) {
    counts.failed++;
    console.log(`FAIL ${name}: ${(error as Error).message}`);
  }
}

try {
  const settings = { endpoint: hub.url, token: undefined, cacheDir };
  const { commit, bytes } = await pullModel(parseRepoName(hub.name), settings);
  const files = [...hub.files.keys()].sort();

  await check("huggingface_hub finds all that was pulled", async () => {
    const script = join(import.meta.dirname, "hub_cache.py");
    const { stdout } = await promisify(execFile)(process.env.PYTHON ?? "python3", [
      script,
      cacheDir,
      hub.name,
      ...files,
    ]);
    const { warnings, repos, found } = JSON.parse(stdout) as Scanned;
    assert.deepEqual(warnings, []);
    assert.deepEqual(repos, [{ id: hub.name, size: bytes, commits: { [commit]: { refs: ["main"], files } } }]);
    const root = join(cacheDir, "models--tiny--Phi-3_tiny", "snapshots", commit);
    for (const file of files) assert.equal(found[file], join(root, file));
  });

  await check("no file leads out of the model's blobs", async () => {
    const root = await realpath(join(cacheDir, "models--tiny--Phi-3_tiny"));
    for (const file of files) {
      assert.ok((await realpath(join(root, "snapshots", commit, file))).startsWith(join(root, "blobs")));
    }
    assert.deepEqual((await verifyModel(cacheDir, hub.name)).bad, []);
  });
} finally {
  await rm(cacheDir, { recursive: true, force: true });
}
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 ? 1 : 0;
