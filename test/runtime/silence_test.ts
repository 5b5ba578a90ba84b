import assert from "node:assert/strict";
import { test } from "node:test";
import { served } from "./served_fake.ts";

// In a file of its own: `test/run.ts` waits for it beside the others.
test("an answer that takes more than 30 s of silence arrives", async () => {
  await using server = served(31_000);
  const messages = [{ role: "user", content: "Hello" }];
  const response = await server.post("/v1/chat/completions", { messages, max_tokens: 1, ignore_eos: true });
  assert.equal((await response.json()).usage.completion_tokens, 1);
});
