import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { test } from "node:test";
import { layoutModel } from "../backend/layout_cases.ts";
import { startServer } from "./this_runtime.ts";

test("every option reaches what it is for", async () => {
  await using model = await layoutModel({ size: "tiny", layout: "genai", promptTokens: 1, tolerance: 0 });
  const dataDir = await mkdtemp(join(tmpdir(), "hearth-options-"));
  try {
    await using server = await startServer({
      MODEL: model.path,
      HOST: "localhost",
      THREADS: "1",
      BACKEND: "simd",
      KV: "int8",
      ACTIVATIONS: "f32",
      PROMPT_LOOKUP: "always",
      API_KEY: "old-key",
      API_KEYS: "ada:ada-key",
      DATA_DIR: dataDir,
      SESSION_KEY: "a secret of the test",
    });
    const said = server.output();
    assert.match(said, /^Hearth on http:\/\/localhost:\d+ /);
    assert.match(said, new RegExp(`model {4}${basename(model.path)}, context of 512 tokens`));
    assert.match(said, /backend {2}simd, .*\n .*our engine, .*f32 activations, .* int8\n/);
    assert.match(said, /threads {2}1 \(THREADS\)/);

    const ask = (key: string, method: string, path: string, body?: object) =>
      fetch(`${server.url}/v1${path}`, {
        method,
        headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
        body: body && JSON.stringify(body),
      });
    assert.equal((await ask("no-key", "GET", "/sessions")).status, 401);
    const messages = [{ role: "user", content: "Hello there" }];
    // An answer that repeats itself, which random weights would not.
    const turn = { messages, session: "s", max_tokens: 20, ignore_eos: true, logit_bias: { 500: 100 } };
    const answer = await ask("ada-key", "POST", "/chat/completions", turn);
    const { usage: { completion_tokens_details: drafts } } = await answer.json();
    assert.ok(drafts.accepted_prediction_tokens + drafts.rejected_prediction_tokens > 0, "it drafts");
    assert.equal((await ask("ada-key", "GET", "/sessions/s")).status, 200);
    assert.equal((await ask("old-key", "GET", "/sessions/s")).status, 404, "another tenant's");
    assert.ok((await readdir(dataDir, { recursive: true })).some((name) => name.endsWith(".log")));
    const capsule = new Uint8Array(await (await ask("ada-key", "POST", "/sessions/s/export", {})).arrayBuffer());
    assert.match(new TextDecoder().decode(capsule), /^HEARTHC.*"variant":"simd-\d+\/a32\/kv-int8".*"sealed":true/s);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
