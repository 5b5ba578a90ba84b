import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { PeerProcess } from "../../bench/peers/peer_process.ts";
import { serveIsolated } from "../../bench/peers/isolated_server.ts";
import { bundledWorkload } from "../../bench/peers/workload.ts";

// No source package by pip for this: the peers that want it are not asked.
process.env.HEARTH_GGUF ??= "/nowhere.gguf";

const root = join(import.meta.dirname, "..", "..");
const runtimeArgs = process.versions.deno ? ["run", "-A", "--no-check"] : [];
const page = (...args: string[]) =>
  promisify(execFile)(process.execPath, [...runtimeArgs, "bench/peers.ts", ...args], {
    cwd: root,
  });

test("bench:peers holds a peer to the same work, and its last line is the document", async () => {
  const { stdout } = await page(
    ...["--only", "hearth_simd,onnxruntime_node", "--threads", "1", "--rounds", "1", "--tokens", "6"],
  );
  const { environment, cases: [result] } = JSON.parse(stdout.trimEnd().split("\n").at(-1)!);
  assert.equal(environment.model, "smollm2-135m-instruct");
  assert.deepEqual(result.rows.map((row: { peer: string }) => row.peer), ["hearth_simd", "onnxruntime_node"]);
  assert.deepEqual(result.rows.map((row: Record<string, string>) => row["same text"]), ["yes", "yes"]);
  assert.match(result.rows[1]["runs in"], /^Bun /);
  assert.ok(result.figures.onnxruntime_node_decode_1_threads > 1, JSON.stringify(result.figures));
});

test("bench:peers says which peers there are", async () => {
  await assert.rejects(page("--only", "nobody"), /Cannot measure "nobody": wanted hearth_simd, /);
  await assert.rejects(page("--phi3", "folder"), /Cannot measure Phi-3: .*wanted both/);
});

test("a peer without its model says why and ends", async () => {
  const { model } = await bundledWorkload();
  const task = { threads: 1, modelFolder: model.path, gguf: { missing: "no pip here" } };
  const [peer, start] = await PeerProcess.start("llama_cpp", { script: ["llama_cpp"], runtime: "bun" }, task);
  await using _ = peer;
  assert.deepEqual(start, { skipped: "no pip here" });
});

test("a peer that broke fails the page with its name", async () => {
  const { model } = await bundledWorkload();
  const task = { threads: 1, modelFolder: model.path, gguf: { missing: "" } };
  const broken = { script: ["hearth", "no-such-backend"], runtime: "page" } as const;
  await assert.rejects(PeerProcess.start("hearth", broken, task), /Cannot measure hearth: its process ended/);
});

test("the prompt of 512 tokens is the same as text and as ids", async () => {
  const { tokenizer, longPrompt } = await bundledWorkload();
  assert.equal(longPrompt.ids.length, 512);
  assert.deepEqual(tokenizer.encode(longPrompt.text), longPrompt.ids);
});

test("serveIsolated() serves named files only, so that a page may share memory", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hearth-served-"));
  try {
    await writeFile(join(folder, "a.js"), "export {}");
    await using server = await serveIsolated({ "/a.js": { path: join(folder, "a.js"), type: "text/javascript" } });
    const { origin } = server;
    const script = await fetch(`${origin}/a.js`);
    assert.equal(script.headers.get("content-type"), "text/javascript");
    assert.equal(script.headers.get("cross-origin-embedder-policy"), "require-corp");
    assert.equal(await script.text(), "export {}");
    const empty = await fetch(origin);
    assert.equal(empty.headers.get("cross-origin-opener-policy"), "same-origin");
    await empty.text();
    const missing = await fetch(`${origin}/../peers_test.ts`);
    assert.equal(missing.status, 404);
    await missing.text();
  } finally {
    await rm(folder, { recursive: true });
  }
});
