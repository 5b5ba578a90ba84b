import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, test } from "node:test";
import { served } from "./served_fake.ts";

const messages = [{ role: "user", content: "Hello" }];

describe("the listener", () => {
  for (const [path, stream] of [["/v1/generate", false], ["/v1/chat/completions", true]] as const) {
    test(`${path}: a token reaches the client before the next is computed`, async () => {
      await using server = served(150);
      const response = await server.post(path, { messages, max_tokens: 8, ignore_eos: true, stream });
      let received = "";
      let passesAtFirstToken = 0;
      for await (const chunk of response.body!.pipeThrough(new TextDecoderStream())) {
        received += chunk;
        const token = stream ? received.includes(`"delta":{"content"`) : received !== "";
        if (token && passesAtFirstToken === 0) passesAtFirstToken = server.backend.passes.length;
      }
      assert.equal(server.backend.passes.length, 8);
      // Some tokens are only part of a character, so the first text may take more than one; a response that is
      // held back until the end would show all 8.
      assert.ok(passesAtFirstToken >= 1 && passesAtFirstToken <= 3, `${passesAtFirstToken} passes`);
    });

    test(`${path}: after a disconnect work stops within a token, and the session's next turn is right`, async () => {
      await using server = served(20);
      const stop = new AbortController();
      const session = "s";
      await server.post("/v1/chat/completions", { messages, max_tokens: 0, session });
      const body = { messages, max_tokens: 400, ignore_eos: true, stream, session };
      const response = await server.post(path, body, stop.signal);
      const reader = response.body!.getReader();
      await reader.read();
      const seen = server.backend.passes.length;
      stop.abort();
      await reader.closed.catch(() => {});
      await sleep(400);
      const after = server.backend.passes.length;
      await sleep(200);
      assert.equal(server.backend.passes.length, after, "no pass runs any more");
      assert.ok(after - seen <= 3, `${after - seen} passes ran after the disconnect`);

      const next = { messages, max_tokens: 12, ignore_eos: true, session };
      const got = await (await server.post("/v1/chat/completions", next)).json();
      const fresh = await (await server.post("/v1/chat/completions", { ...next, session: undefined })).json();
      assert.equal(got.choices[0].message.content, fresh.choices[0].message.content);
      assert.ok(got.usage.prompt_tokens_details.cached_tokens > 0);
    });
  }

  test("a slow reader slows its own generation only", async () => {
    await using server = served(1);
    const slow = await server.post("/v1/generate", { messages, max_tokens: 1000, ignore_eos: true });
    const reader = slow.body!.getReader();
    await reader.read();
    const other = await server.post("/v1/chat/completions", { messages, max_tokens: 5, ignore_eos: true });
    assert.equal((await other.json()).usage.completion_tokens, 5);
    await reader.cancel();
  });
});
