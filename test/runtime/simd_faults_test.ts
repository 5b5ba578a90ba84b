import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { crashThread, killThread } from "../backend/crash_thread.ts";
import { collect } from "../fakes/fake_engine.ts";
import { readBeginning } from "../http/client.ts";
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
    // Answers that are long enough for none to be over before each has begun.
    await using server = await servedSimd({ contextLength: 6000, kvBudgetBytes: 2 ** 26 });
    await server.ask([user(QUESTION)], { session: "s" });
    const { ids } = server.engine.sessions.inspect("s");
    await server.ask([user("Hello there")], { session: "idle" });
    for (const round of [1, 2]) {
      const next = { messages: [user("And now?")], session: { id: "s", mode: "append" } };
      const asked = [next, { messages: [user("More")], session: "new" }, { messages: [user("More")] }];
      const streams = await Promise.all(asked.map(async (body) => {
        const fields = { stream: true, max_tokens: 5000, ignore_eos: true };
        return await readBeginning(await server.post("/v1/chat/completions", { ...body, ...fields }), 3);
      }));
      await crashThread(server.backend);
      for (const { readAll } of streams) {
        const { error } = (await readAll()).at(-1)!.data;
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

  test("threads crash in a row: /readyz says so, and who asks after a rest is the reason to try again", async () => {
    await using server = await servedSimd({ restarts: { most: 1, restMs: 1000 } });
    const readyz = async () => {
      const response = await fetch(`http://127.0.0.1:${server.port}/readyz`);
      return { status: response.status, reason: (await response.json()).reason };
    };
    const next = { messages: [user("And now?")], session: { id: "s", mode: "append" } };
    await server.ask([user(QUESTION)], { session: "s" });
    await crashThread(server.backend);
    await killThread(server.backend);
    const { status, error } = await server.ask(next.messages, next);
    assert.deepEqual([status, error!.code], [503, "unavailable"]);
    const resting = await readyz();
    assert.equal(resting.status, 503);
    assert.match(
      resting.reason,
      /the inference thread is gone.* came to nothing 1 times, .* when a request comes in 1 s or later$/,
    );
    await sleep(1200);
    assert.ok(server.backend.failure, "nobody asked");
    while ((await readyz()).status !== 200) await sleep(5);
    const again = await server.ask(next.messages, next);
    assert.deepEqual([again.status, again.hearth.session.turn, again.hearth.session.state_before], [200, 2, "cold"]);
    await checkLastAnswer(server, "s");
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

  test("bits flip in parked KV: the next turn takes longer, is right, and says that KV was lost", async () => {
    const dataDir = await mkdtemp(join(tmpdir(), "hearth-flips-"));
    try {
      await using server = await servedSimd({ dataDir, parkedBudgetBytes: 2 ** 24, parking: { pays: () => true } });
      await server.ask([user(QUESTION)], { session: "s" });
      // Where the file is damaged, as a share of it: magic, header, KV; nowhere in the first round.
      for (const [i, at] of [undefined, 0, 0.001, 0.02, 0.5, 0.999].entries()) {
        const kept = server.engine.sessions.inspect("s").ids;
        await server.engine.sessions.park("s");
        const [name] = (await readdir(dataDir, { recursive: true })).filter((name) => name.endsWith(".kv"));
        if (at !== undefined) await flipBit(join(dataDir, name!), at);
        const session = { id: "s", mode: "append", if_turn: i + 1 };
        const { status, hearth } = await server.ask([user("And now?")], { session, max_tokens: 4 });
        assert.equal(status, 200);
        assert.deepEqual(server.engine.sessions.inspect("s").ids.slice(0, kept.length), kept);
        await checkLastAnswer(server, "s");
        const { reused, reason } = hearth.cache;
        assert.equal(hearth.session.state_before, "parked");
        assert.deepEqual(
          [reused > 0, reason],
          at === undefined ? [true, "restored"] : [false, "restore_failed"],
          `at ${at}`,
        );
      }
      const { restores, failedRestores } = server.engine.sessions.stats();
      assert.deepEqual([restores, failedRestores], [1, 5]);
    } finally {
      await rm(dataDir, { recursive: true, force: true });
    }
  });

  test("memory is missing for a prefill: it is refused before it begins, and the next turn is right", async () => {
    await using server = await servedSimd({ kvBudgetBytes: 2 ** 17 });
    await server.ask([user("Hello")], { session: "s", max_tokens: 8 });
    const before = server.engine.sessions.inspect("s").ids;
    const more = { messages: [user("More")], session: { id: "s", mode: "append" }, ignore_eos: true, stream: true };
    for (const stream of [true, false]) {
      const response = await server.post("/v1/chat/completions", { ...more, stream, max_tokens: 300 });
      const { error } = await response.json();
      assert.deepEqual([response.status, error.code], [503, "out_of_memory"]);
      assert.ok(response.headers.get("retry-after"));
      assert.match(error.message, /Cannot reserve .* of KV memory: the budget is/);
      assert.deepEqual(server.engine.sessions.inspect("s").ids, before);
    }
    const { status, hearth } = await server.ask(more.messages, { session: more.session, max_tokens: 8 });
    assert.deepEqual([status, hearth.session.turn], [200, 2]);
    await checkLastAnswer(server, "s");
  });
});

/** Flips one bit of a file. @param at where, as a share of it */
async function flipBit(path: string, at: number): Promise<void> {
  const bytes = await readFile(path);
  bytes[Math.floor(at * bytes.length)]! ^= 4;
  await writeFile(path, bytes);
}
