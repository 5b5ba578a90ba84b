import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { sseEvents } from "../http/client.ts";
import { type ServerProcess, startServer } from "./this_runtime.ts";

const post = ({ url }: ServerProcess, path: string, body: object) =>
  fetch(url + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

const inspect = async ({ url }: ServerProcess, id: string) => await (await fetch(`${url}/v1/sessions/${id}`)).json();

const sessionFiles = async (dataDir: string) =>
  (await readdir(dataDir, { recursive: true })).filter((name) => name.endsWith(".log"));

test("a killed server comes back with every turn that it acknowledged, and goes on from there", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "hearth-server-"));
  const env = { DATA_DIR: dataDir };
  const ask = (content: string, extra: object = {}) => ({
    messages: [{ role: "user", content }],
    max_tokens: 12,
    session: { id: "s", mode: "append", ...extra },
  });
  try {
    let answer: string;
    let before;
    {
      await using server = await startServer(env);
      await (await post(server, "/v1/generate", ask("Name a fruit.", { if_turn: 0 }))).text();
      answer = await (await post(server, "/v1/generate", ask("Another.", { if_turn: 1 }))).text();
      before = await inspect(server, "s");
      const cut = await post(server, "/v1/chat/completions", {
        ...ask("Count to one hundred."),
        max_tokens: 500,
        stream: true,
      });
      const reader = cut.body!.getReader();
      for (let i = 0; i < 3; i++) await reader.read();
      process.kill(server.child.pid!, "SIGKILL");
      await server.exited;
      reader.cancel().catch(() => {});
    }
    await using server = await startServer(env);
    const after = await inspect(server, "s");
    assert.deepEqual(
      [after.turn, after.tokens, after.messages, after.created_at],
      [2, before.tokens, before.messages, before.created_at],
    );
    // Greedy, and the same bits from the transcript as from the cache.
    const again = await post(server, "/v1/generate", { max_tokens: 12, session: { id: "s", mode: "regenerate" } });
    assert.equal(await again.text(), answer);
    const next = { ...ask("And another.", { if_turn: 2 }), stream: true };
    const last = sseEvents(await (await post(server, "/v1/chat/completions", next)).text()).at(-2)!.data;
    assert.deepEqual([last.hearth.session.turn, last.hearth.session.state_before], [3, "hot"]);

    assert.equal((await sessionFiles(dataDir)).length, 1);
    assert.equal((await fetch(`${server.url}/v1/sessions/s`, { method: "DELETE" })).status, 200);
    assert.deepEqual(await sessionFiles(dataDir), []);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});

test("a server that is killed while it parks KV comes back with every word, and without half a file", async () => {
  const dataDir = await mkdtemp(join(tmpdir(), "hearth-parking-"));
  const names = () => readdirSync(dataDir, { recursive: true }).map(String);
  const story = "The boats lay still upon the grey water. ".repeat(50);
  const turn = (content: string) => ({
    messages: [{ role: "user", content }],
    max_tokens: 8,
    session: { id: "s", mode: "append" },
  });
  try {
    let before;
    let parked;
    {
      await using server = await startServer({ DATA_DIR: dataDir });
      await (await post(server, "/v1/sessions", { id: "s" })).text();
      await (await post(server, "/v1/generate", turn(story))).text();
      before = await inspect(server, "s");
      // It parks what is idle before it ends, a file of many megabytes.
      process.kill(server.child.pid!, "SIGTERM");
      let over = false;
      server.exited.then(() => over = true);
      while (!over && !names().some((name) => name.endsWith(".kv.new"))) {
        await new Promise((resolve) => setImmediate(resolve));
      }
      assert.equal(over, false, "it parks");
      process.kill(server.child.pid!, "SIGKILL");
      await server.exited;
      // On a busy machine the file may have got its name by now.
      parked = names().some((name) => name.endsWith(".kv"));
    }
    await using server = await startServer({ DATA_DIR: dataDir });
    assert.deepEqual(names().filter((name) => name.endsWith(".new")), []);
    const after = await inspect(server, "s");
    assert.deepEqual([after.turn, after.messages, after.state], [1, before.messages, parked ? "parked" : "cold"]);
    const answer = await (await post(server, "/v1/generate", turn("What was still?"))).text();
    const { messages } = turn("What was still?");
    const whole = { messages: [...before.messages, ...messages], max_tokens: 8, cache: "off" };
    assert.equal(await (await post(server, "/v1/generate", whole)).text(), answer);
  } finally {
    await rm(dataDir, { recursive: true, force: true });
  }
});
