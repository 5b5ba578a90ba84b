import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "..", "..");
const bun = join(root, "node_modules", ".bin", "bun");

interface Metafile {
  inputs: Record<string, { imports: { path: string }[] }>;
}

/** What is of a server, of a disk, or of node. */
const NOT_FOR_PAGES =
  /^src\/(hub|http|host|notebook|runtime\/(?!browser\/))|^src\/session\/(session_files|session_log|kv_file|durable_file|folder_lock)|ort_wasm\/|dawn|host_resources/;

test("the bundle for pages has the engine, and nothing that a page has not", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hearth-bundle-"));
  try {
    const entries = ["hearth.ts", "hearth_worker.ts"].map((name) => `src/runtime/browser/${name}`);
    const metafile = join(folder, "metafile.json");
    const args = ["build", "--target", "browser", "--outdir", folder, `--metafile=${metafile}`, ...entries];
    await promisify(execFile)(bun, args, { cwd: root });
    const { inputs } = JSON.parse(await readFile(metafile, "utf8")) as Metafile;
    const ours = Object.keys(inputs).filter((path) => path.startsWith("src/"));
    for (const path of ["engine/engine.ts", "backend/simd/simd_session.ts", "backend/ort_webgpu/gpu_session.ts"]) {
      assert.ok(ours.includes(`src/${path}`), path);
    }
    assert.deepEqual(ours.filter((path) => NOT_FOR_PAGES.test(path)), []);
    for (const path of ours) {
      assert.deepEqual(inputs[path]!.imports.filter((found) => found.path.startsWith("node:")), [], path);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("what package.json puts in the place of a module is in the folder for pages", async () => {
  const { browser } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  for (const [path, taken] of Object.entries<string>(browser)) {
    await readFile(join(root, path));
    assert.match(taken, /^\.\/src\/runtime\/browser\//);
  }
});
