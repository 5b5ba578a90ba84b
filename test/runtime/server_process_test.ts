import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import OpenAI from "openai";
import { type ServerProcess, spawnServer, startServer } from "./this_runtime.ts";

const PUBLIC_PROMPT = "You are a helpful assistant. Answer in one sentence.";

/** Starts a server that cannot start. @returns what it says */
async function failsToStart(env: Record<string, string>): Promise<string> {
  await using server = spawnServer(env);
  assert.equal(await server.exited, 1, server.output());
  return server.output().trim();
}

describe("a server that cannot start says why in one line", () => {
  test("a port in use", async () => {
    const other = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => other.once("listening", resolve));
    const { port } = other.address() as { port: number };
    const said = await failsToStart({ PORT: `${port}` });
    assert.equal(said, `Cannot listen on 127.0.0.1:${port}: the port is in use; stop the other program or set PORT`);
    other.close();
  });

  test("an unknown model", async () => {
    assert.match(await failsToStart({ MODEL: "no-such-model" }), /^Cannot find model "no-such-model": wanted .*$/);
  });

  test("an open host without a key", async () => {
    assert.match(await failsToStart({ HOST: "0.0.0.0" }), /^Cannot listen on HOST="0.0.0.0" without a key.*$/);
  });

  test("a backend that there is not", async () => {
    assert.match(await failsToStart({ BACKEND: "abacus" }), /^Cannot use BACKEND="abacus": .*$/);
  });

  test("public prompts that there are not", async () => {
    assert.match(await failsToStart({ PUBLIC_PROMPTS: "no.json" }), /^Cannot use PUBLIC_PROMPTS="no.json": .*$/);
  });
});

describe("a server with the bundled model", () => {
  let server: ServerProcess;
  let openai: OpenAI;
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "hearth-server-"));
    const PUBLIC_PROMPTS = join(folder, "prompts.json");
    await writeFile(PUBLIC_PROMPTS, JSON.stringify([PUBLIC_PROMPT]));
    server = await startServer({ PUBLIC_PROMPTS });
    openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none" });
  });
  after(async () => {
    await server?.[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  test("says what it serves, with a curl line that answers", async () => {
    const said = server.output();
    assert.match(said, /model {4}smollm2-135m-instruct, context of 8192 tokens/);
    assert.match(
      said,
      /backend {2}simd, picked by auto, after ort-webgpu: .+\n +our engine, relaxed-threads, int8 activations, weights /,
    );
    assert.match(said, /threads {2}\d+ \(the CPU quota\)/);
    const line = said.split("\n").map((text) => text.trim()).find((text) => text.startsWith("curl "))!;
    const shell = promisify(execFile);
    const hasCurl = await shell("curl", ["--version"]).then(() => true, () => false);
    if (hasCurl) assert.match((await shell("sh", ["-c", line])).stdout, /sky|blue|light/i);
    else {
      // A machine without curl: the same request, read off the line.
      const [, url, body] = /curl -N (\S+) .*-d '(.*)'/.exec(line)!;
      const response = await fetch(url!, { method: "POST", headers: { "content-type": "application/json" }, body });
      assert.match(await response.text(), /sky|blue|light/i);
    }
  });

  test("openai: an answer, its stream and its usage agree", async () => {
    const request = {
      model: "default",
      messages: [{ role: "user" as const, content: "What is 2+2?" }],
      max_completion_tokens: 16,
    };
    const whole = await openai.chat.completions.create(request);
    assert.equal(whole.choices[0]!.message.content, "The answer to this classic math problem is 4.");
    assert.equal(whole.choices[0]!.finish_reason, "stop");
    const stream = await openai.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = "";
    let usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0]!.message.content);
    assert.deepEqual(usage, whole.usage);
  });

  test("openai: a session's second turn reuses the first", async () => {
    const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "Name a fruit." }];
    const headers = { "x-session-id": "fruit" };
    const ask = () =>
      openai.chat.completions.create({ model: "default", messages, max_completion_tokens: 20 }, { headers });
    const first = await ask();
    messages.push(first.choices[0]!.message as OpenAI.ChatCompletionMessageParam, {
      role: "user",
      content: "Another.",
    });
    const second = await ask();
    const { prompt_tokens, completion_tokens } = first.usage!;
    assert.ok(second.usage!.prompt_tokens_details!.cached_tokens! >= prompt_tokens + completion_tokens - 1);
  });

  test("openai: a public prompt is in memory before the first request, and not among the cached tokens", async () => {
    assert.match(server.output(), /public {3}1 system prompt, evaluated once for all tenants/);
    const completion = await openai.chat.completions.create({
      model: "default",
      messages: [{ role: "system", content: PUBLIC_PROMPT }, { role: "user", content: "Hello" }],
      max_completion_tokens: 4,
    });
    const { usage, hearth } = completion as typeof completion & { hearth: { cache: { public: number } } };
    assert.equal(usage!.prompt_tokens_details!.cached_tokens, 0);
    assert.ok(hearth.cache.public > 10 && hearth.cache.public < usage!.prompt_tokens, JSON.stringify(hearth));
  });

  test("openai: errors are typed, and a busy session is not tried again", async () => {
    const messages = [{ role: "user" as const, content: "Count to one hundred." }];
    await assert.rejects(openai.chat.completions.create({ model: "gpt-9", messages }), OpenAI.NotFoundError);
    await assert.rejects(
      openai.chat.completions.create({ model: "default", messages: [] }),
      OpenAI.BadRequestError,
    );
    const headers = { "x-session-id": "busy" };
    const stream = await openai.chat.completions.create({ model: "default", messages, stream: true }, { headers });
    const startedAt = performance.now();
    await assert.rejects(
      openai.chat.completions.create({ model: "default", messages }, { headers }),
      OpenAI.ConflictError,
    );
    assert.ok(performance.now() - startedAt < 2000, "the client did not retry");
    stream.controller.abort();
  });

  test("SIGTERM ends a stream properly, then the process", async () => {
    const stream = await openai.chat.completions.create({
      model: "default",
      messages: [{ role: "user", content: "Why is the sky blue?" }],
      max_completion_tokens: 60,
      stream: true,
    });
    let finish: string | null | undefined;
    let tokens = 0;
    for await (const chunk of stream) {
      // Not child.kill(): after it, Deno 2.9.6 reports the signal in place of the exit code.
      if (++tokens === 3) process.kill(server.child.pid!, "SIGTERM");
      finish = chunk.choices[0]?.finish_reason ?? finish;
    }
    assert.ok(finish === "length" || finish === "stop");
    assert.equal(await server.exited, 0, server.output());
  });
});
