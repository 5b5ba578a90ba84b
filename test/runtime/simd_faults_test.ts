import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { crashThread } from "../backend/crash_thread.ts";
import { collect } from "../fakes/fake_engine.ts";
import { sseEvents } from "../http/client.ts";
import { readAndVanish, requestRaw } from "./raw_client.ts";
import { type ServedSimd, servedSimd } from "./served_simd.ts";

const user = (content: string) => ({ role: "user", content });
const QUESTION = "What is the capital of this country, and how long has it been that?";

describe("our engine, served, when", () => {
  /** Nothing happens to this one: what it says without a cache is right. */
  let sound: ServedSimd;
  before(async () => void (sound = await servedSimd({ threads: 1 })));
  after(async () => await sound[Symbol.asyncDispose]());
  /** The last answer of a session is what its prompt gives without a cache. */
  async function checkLastAnswer(server: ServedSimd, id: string): Promise<void> {
    const { ids, turns } = server.engine.sessions.inspect(id);
    const { replyStart, end } = turns.at(-1)!;
    assert.equal(end, ids.length);
    const prompt = { ids: ids.slice(0, replyStart) };
    const request = { prompt, maxTokens: end - replyStart, ignoreEos: true, useCache: false };
    assert.deepEqual((await collect(sound.engine.generate(request))).ids, ids.slice(replyStart));
  }

  test("its inference thread crashes in the middle of streams: they end in an error, the sessions go on", async () => {
    await using server = await servedSimd();
    await server.ask([user(QUESTION)], { session: "s" });
    const { ids } = server.engine.sessions.inspect("s");
    await server.ask([user("Hello there")], { session: "idle" });
    for (const round of [1, 2]) {
      const next = { messages: [user("And now?")], session: { id: "s", mode: "append" } };
      const asked = [next, { messages: [user("More")], session: "new" }, { messages: [user("More")] }];
      const streams = asked.map(async (body) => {
        const fields = { stream: true, max_tokens: 400, ignore_eos: true };
        return sseEvents(await (await server.post("/v1/chat/completions", { ...body, ...fields })).text());
      });
      while (server.engine.sessions.list().filter(({ busy }) => busy).length < 2) await sleep(1);
      await sleep(20);
      await crashThread(server.backend);
      for (const events of await Promise.all(streams)) {
        assert.ok(events.length > 2, "it was in the middle");
        const { error } = events.at(-1)!.data;
        assert.deepEqual([error.code, error.type], ["unavailable", "server_error"]);
        assert.match(error.message, /the inference thread is gone/);
      }
      const sessions = server.engine.sessions.list().map(({ id, turn, state, busy }) => ({ id, turn, state, busy }));
      assert.deepEqual(
        sessions.sort((a, b) => a.id < b.id ? -1 : 1),
        ["idle", "s"].map((id) => ({ id, turn: 1, state: "cold", busy: false })),
      );
      // The same request again.
      const again = await server.ask(next.messages, { session: { ...next.session, if_turn: 1 } });
      assert.deepEqual(server.engine.sessions.inspect("s").ids.slice(0, ids.length), ids);
      await checkLastAnswer(server, "s");
      assert.deepEqual([again.hearth.session.turn, again.hearth.session.state_before], [2, "cold"]);
      assert.deepEqual([again.hearth.cache.reused, again.hearth.cache.reason], [0, "evicted"]);
      const rewound = await server.post("/v1/sessions/s/rewind", { to_turn: 1 });
      assert.equal(rewound.status, 200, `round ${round}`);
    }
  });

  test("clients vanish at any moment: their sessions go on, and no memory stays behind", async () => {
    await using server = await servedSimd();
    const before = await server.backend.stats();
    await Promise.all(Array.from({ length: 24 }, async (_, i) => {
      const messages = [user(`${QUESTION} `.repeat(1 + i % 5))];
      const body = { messages, stream: true, max_tokens: 60, ignore_eos: true, session: `s${i % 8}` };
      const socket = await requestRaw(server.port, body, { connection: "close" });
      if (i % 2 === 0) {
        await sleep(3 * i);
        socket.resetAndDestroy();
      } else await readAndVanish(socket, 1 + i % 7).catch(() => {});
    }));
    while (server.engine.sessions.list().some(({ busy }) => busy)) await sleep(5);
    for (let i = 0; i < 8; i++) {
      assert.equal((await server.ask([user(QUESTION)], { session: `s${i}` })).status, 200);
      await checkLastAnswer(server, `s${i}`);
      await server.engine.sessions.delete(`s${i}`);
    }
    assert.deepEqual(await server.backend.stats(), before);
  });
});
