import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { type App, post } from "./client.ts";

/** As many as the largest body has room for. */
const LONGEST = 1_000_000;
const SENTENCE = "The harbour was quiet that morning, and the boats lay still upon the grey water. ";
const longText = (length: number) => SENTENCE.repeat(Math.ceil(length / SENTENCE.length)).slice(0, length);

/** Milliseconds of a pass of the model beside. */
const TOKEN_MS = 2;
/** Fewer would mean that they stood still for most of the time, on a machine that is busy otherwise, too. */
const WANTED_TOKENS = 20;

/** Streams an answer until told to stop. @returns a function that gives the tokens so far */
async function answerBeside(app: App): Promise<{ tokens: () => number; stop: () => Promise<void> }> {
  const body = { prompt: "Hello there", stream: true, ignore_eos: true, max_tokens: 8000, cache: "off" };
  const reader = (await post(app, "/v1/generate", body)).body!.getReader();
  let tokens = 0;
  const read = (async () => {
    while (!(await reader.read()).done) tokens++;
  })();
  return {
    tokens: () => tokens,
    stop: async () => {
      await reader.cancel();
      await read;
    },
  };
}

describe("a prompt that is as long as a body may be", () => {
  const ways: [string, (text: string) => object, string][] = [
    ["/v1/generate", (text) => ({ prompt: text }), "text"],
    ["/v1/chat/completions", (text) => ({ messages: [{ role: "user", content: text }] }), "a message"],
    ["/v1/chat/completions", (text) => ({
      session: "s",
      messages: Array.from({ length: 200 }, (_, i) => ({
        role: i % 2 ? "assistant" : "user",
        content: `${i} ${text.slice(i, i + LONGEST / 200 - 100)}`,
      })),
    }), "many messages of a session"],
  ];
  for (const [path, body, name] of ways) {
    test(`${name}: another stream's tokens come while it is encoded`, async () => {
      const { engine } = fakeEngine({ delayMs: TOKEN_MS });
      const app = createApp(engine);
      const beside = await answerBeside(app);
      try {
        const before = beside.tokens();
        const response = await post(app, path, body(longText(LONGEST)));
        const during = beside.tokens() - before;
        assert.equal((await response.json()).error.code, "context_length_exceeded");
        assert.ok(during >= WANTED_TOKENS, `${during} tokens came`);
      } finally {
        await beside.stop();
        await engine[Symbol.asyncDispose]();
      }
    });
  }

  test("has the ids that it has when it is encoded at once, and says how many they are", async () => {
    const { engine } = fakeEngine();
    const text = longText(100_000);
    const ids = engine.tokenizer.encode(text);
    const refused = await post(createApp(engine), "/v1/generate", { prompt: text, max_tokens: 5 });
    assert.match((await refused.json()).error.message, new RegExp(`: ${ids.length} prompt tokens and 5 `));
    await engine[Symbol.asyncDispose]();

    const { engine: roomy, backend } = fakeEngine({ contextLength: 200_000 });
    const messages = [{ role: "user", content: text }];
    const wanted = await roomy.chatTemplate.encode(messages);
    for (const session of [undefined, { id: "s" }]) {
      const generation = await roomy.start({ prompt: { messages }, session, maxTokens: 1 });
      for await (const _ of generation);
      assert.equal(backend.passes.reduce((sum, { tokens }) => sum + tokens, 0), wanted.length);
      backend.passes.length = 0;
    }
    assert.deepEqual(roomy.sessions.describe("s").tokens, wanted.length + 1);
    await roomy[Symbol.asyncDispose]();
  });
});
