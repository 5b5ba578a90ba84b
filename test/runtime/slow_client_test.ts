import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { sseEvents, textOf } from "../http/client.ts";
import { rawEvents, readSlowly, requestRaw } from "./raw_client.ts";
import { servedSimd } from "./served_simd.ts";

/** Of each long answer: more than two sockets' buffers take, which was up to 13,100. */
const TOKENS = 18_000;

test("a client that reads a byte a second, on our engine: others do not notice, and it gets the same text later", async () => {
  // Long events fill buffers with fewer tokens.
  const name = "hearth-phi3-".padEnd(240, "x");
  await using server = await servedSimd({ contextLength: TOKENS + 100, kvBudgetBytes: 2 ** 26, name });
  const { sessions } = server.engine;
  const body = { messages: [{ role: "user", content: "Hello" }], ignore_eos: true, stream: true };
  const stream = async (session: string, max_tokens: number) =>
    sseEvents(await (await server.post("/v1/chat/completions", { ...body, max_tokens, session })).text());
  /** Milliseconds of decoding, the better of two answers. */
  const decodeMs = async () => {
    const answers = [await stream("a", 1000), await stream("b", 1000)];
    return Math.min(...answers.map((events) => events.at(-2)!.data.hearth.timings.decode_ms));
  };

  const slow = await requestRaw(server.port, { ...body, max_tokens: TOKENS, session: "slow" });
  const taken: Uint8Array[] = [];
  // Let go of before the server, which ends after its answers do.
  using drip = readSlowly(slow, taken);

  const whole = await stream("fast", TOKENS);
  assert.equal(whole.at(-1)!.data, "[DONE]");
  const made = () => sessions.describe("slow").cachedTokens;
  // A socket takes more after a while, when its window opens once more: it stalls when others decode and it does not.
  // With a byte its runtime may take 64 KiB off the socket, which makes room for 130 events of 500 bytes.
  let stalledAt: number;
  let besideIt: number;
  let room: number;
  do {
    stalledAt = made();
    assert.ok(stalledAt < 0.9 * TOKENS, `it waits at ${stalledAt} tokens`);
    const since = performance.now();
    besideIt = await decodeMs();
    room = 130 * (1 + Math.ceil((performance.now() - since) / 1000));
  } while (made() - stalledAt > room);
  const bytes = Buffer.concat(taken).length;
  assert.ok(bytes > 0, "it reads, if slowly");

  drip.stop();
  slow.on("data", (part: Buffer) => taken.push(part));
  while (!Buffer.concat(taken.slice(-3)).includes("data: [DONE]")) await once(slow, "data");
  slow.destroy();
  const events = rawEvents(Buffer.concat(taken).toString());
  assert.equal(textOf(events), textOf(whole));
  assert.deepEqual(sessions.inspect("slow").ids, sessions.inspect("fast").ids);
  const alone = await decodeMs();
  console.log(
    `the slow client's answer waited at ${stalledAt} of ${TOKENS} tokens, for ${bytes} bytes read; ` +
      `others took ${(1000 / besideIt).toFixed(1)} tokens/ms beside it, ${(1000 / alone).toFixed(1)} without`,
  );
  assert.ok(besideIt < 3 * alone, `${besideIt} ms beside it, ${alone} ms without`);
});
