import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { MemoryStore } from "../../models/file_store.ts";
import { type Layout, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { spawnServer, startServer } from "../runtime/this_runtime.ts";
import { LocalHub } from "./local_hub.ts";

const root = join(import.meta.dirname, "..", "..");

/** Runs the command line tool as its users do. */
async function models(env: Record<string, string>, ...args: string[]) {
  const script = "src/runtime/models.ts";
  const entry = "Deno" in globalThis ? ["run", "-A", "--no-check", script] : [script];
  const child = spawn(process.execPath, [...entry, ...args], { cwd: root, env: { ...process.env, ...env } });
  let output = "";
  child.stdout.on("data", (chunk) => output += chunk);
  child.stderr.on("data", (chunk) => output += chunk);
  const [code] = await once(child, "close");
  return { code: code as number, output };
}

async function answer(url: string): Promise<string> {
  const body = JSON.stringify({ prompt: "a b", max_tokens: 8, ignore_eos: true });
  const response = await fetch(`${url}/v1/generate`, { method: "POST", headers: JSON_BODY, body });
  const text = await response.text();
  assert.equal(response.status, 200, text);
  return text;
}
const JSON_BODY = { "content-type": "application/json" };

/** A port that nobody listens on: the server prints its own only when the model is there. */
async function freePort(): Promise<string> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return `${port}`;
}

/** A two-layer Phi-3 of random weights. */
function tinyFiles(layout: Layout): Map<string, Uint8Array> {
  const store = new MemoryStore();
  writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, layout);
  return store.files();
}

describe("a server whose MODEL is of a hub", () => {
  let hub: LocalHub;
  let cache: string;
  let env: Record<string, string>;
  before(async () => {
    hub = await LocalHub.start("tiny/Phi-3_tiny", tinyFiles("hub"));
    cache = await mkdtemp(join(tmpdir(), "hearth-served-"));
    env = { MODEL: hub.name, HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_TOKEN: "" };
  });
  after(async () => {
    await hub?.[Symbol.asyncDispose]();
    await rm(cache, { recursive: true, force: true });
  });

  test("pulls it, says in /readyz how far it is, and serves it; the second start needs no hub", async () => {
    const data = [...hub.files.keys()].find((path) => path.endsWith("_data"))!;
    hub.faults.set(data, { silent: true });
    const port = await freePort();
    {
      await using server = spawnServer({ ...env, PORT: port });
      let reason = "";
      for (let tries = 0; !reason.includes("being pulled") && tries < 400; tries++) {
        const ready = await fetch(`http://127.0.0.1:${port}/readyz`).catch(() => undefined);
        if (ready) {
          assert.equal(ready.status, 503, server.output());
          reason = (await ready.json() as { reason: string }).reason;
        }
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      assert.match(reason, /^the model is being pulled: .*: \d+%, .* of /);
    }
    hub.faults.clear();
    let first: string;
    {
      await using server = await startServer(env);
      assert.match(server.output(), /model {4}tiny\/Phi-3_tiny, context of /);
      first = await answer(server.url);
      const body = JSON.stringify({ model: hub.name, messages: [{ role: "user", content: "a" }], max_tokens: 1 });
      const named = await fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers: JSON_BODY, body });
      assert.equal(named.status, 200, "the model is called what MODEL says");
      await named.body?.cancel();
    }
    assert.equal(hub.ranges(data).at(-1), "bytes=10-", "the second start went on where the first was stopped");
    await using again = await startServer({ ...env, HF_ENDPOINT: "http://127.0.0.1:9" });
    assert.equal(await answer(again.url), first);
  });

  test("says in one line why it cannot be pulled", async () => {
    await using server = spawnServer({ ...env, MODEL: "tiny/Other" });
    assert.equal(await server.exited, 1);
    assert.match(server.output().trim(), /^Cannot get tiny\/Other@main: the hub answered 404, no such .*$/);
  });
});

describe("models", () => {
  let hub: LocalHub;
  let env: Record<string, string>;
  before(async () => {
    const folder = "cpu_and_mobile/cpu-int4-rtn-block-32-acc-level-4";
    const files = new Map([...tinyFiles("genai")].map(([path, bytes]) => [`${folder}/${path}`, bytes]));
    hub = await LocalHub.start("tiny/Phi-3-tiny-onnx", files);
    const cache = await mkdtemp(join(tmpdir(), "hearth-models-"));
    env = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: cache, HF_TOKEN: "" };
  });
  after(async () => {
    await hub?.[Symbol.asyncDispose]();
    await rm(env.HF_HUB_CACHE!, { recursive: true, force: true });
  });

  test("pull, list, verify, serve, rm", async () => {
    const pulled = await models(env, "pull", hub.name);
    assert.equal(pulled.code, 0, pulled.output);
    assert.match(pulled.output, /^tiny\/Phi-3-tiny-onnx@1{12}, cpu_and_mobile\/\S+: \S+ k?M?B, .* fetched now\n/m);
    const listed = await models(env, "list");
    assert.match(listed.output, /^1 models in .*\ntiny\/Phi-3-tiny-onnx {2}.*\n {2}1{12} {2}main, \d+ files, cpu_and/);
    const verified = await models(env, "verify");
    assert.match(verified.output, /^tiny\/Phi-3-tiny-onnx: \d+ files are as they should be\n$/);
    {
      await using server = await startServer({ ...env, MODEL: hub.name });
      assert.notEqual(await answer(server.url), "");
    }
    assert.equal((await models(env, "rm", hub.name)).code, 0);
    assert.match((await models(env, "list")).output, /^0 models in /);
  });

  test("exit statuses and errors say what to do", async () => {
    assert.equal((await models(env)).code, 2);
    assert.equal((await models(env, "pull", "a/b", "--colour")).code, 2);
    const refused = await models(env, "pull", "tiny/nothing");
    assert.equal(refused.code, 1);
    assert.match(
      refused.output,
      /^Cannot get tiny\/nothing@main: the hub answered 404, no such model, revision or file\n$/,
    );
    const name = await models(env, "rm", "../x");
    assert.deepEqual([name.code, name.output.split(":")[0]], [1, 'Cannot use model name "../x"']);
  });
});
