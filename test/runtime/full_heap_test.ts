import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { collect } from "../fakes/fake_engine.ts";
import { sseEvents } from "../http/client.ts";
import { type ServedSimd, servedSimd, type ServedSimdOptions } from "./served_simd.ts";

/** A prompt of about so many tokens, unlike others from its beginning: nothing of it can be shared. */
const prompt = (n: number, tokens: number) => [{
  role: "user",
  content: `${"abcdefghijklm"[n]!.repeat(20)} ${"and so on it went ".repeat(tokens / 6.2)}`,
}];

describe("our engine, served, when its heap is full", () => {
  /** Has room for everything: what it says to begin with is right. */
  let sound: ServedSimd;
  before(async () => void (sound = await servedSimd({ size: "tiny-wide", threads: 1 })));
  after(async () => await sound[Symbol.asyncDispose]());

  /** KV may have 16 MiB, and finds about 6 in the heap: a token takes 1 KiB. */
  const cramped = (options: ServedSimdOptions = {}) =>
    servedSimd({ size: "tiny-wide", maxHeapBytes: 13 * 2 ** 20, ...options });

  async function checkLastAnswer({ engine }: ServedSimd, id: string): Promise<void> {
    const { ids, turns } = engine.sessions.inspect(id);
    const { replyStart, end } = turns.at(-1)!;
    const request = { prompt: { ids: ids.slice(0, replyStart) }, maxTokens: end - replyStart, ignoreEos: true };
    assert.deepEqual((await collect(sound.engine.generate(request))).ids, ids.slice(replyStart, end));
  }

  /** Counts are exact, and nothing of what failed is left. */
  async function checkCounts({ engine, backend }: ServedSimd): Promise<void> {
    const { hotBytes, hotBudgetBytes } = engine.sessions.stats();
    const { kvBlocks, kvBytes } = await backend.stats();
    assert.deepEqual([kvBytes, backend.kvBytes(16 * kvBlocks)], [hotBytes, hotBytes]);
    assert.ok(hotBytes < hotBudgetBytes / 2, "it was the heap that was full");
    assert.equal(backend.failure, undefined, "no thread died of it");
  }

  const state = ({ engine }: ServedSimd, id: string) =>
    engine.sessions.list().find((session) => session.id === id)?.state;

  const parking = { warmBudgetBytes: 2 ** 24, parking: { pays: () => true } };
  for (const [where, options, reason] of [["cold", {}, "evicted"], ["warm", parking, "restored"]] as const) {
    test(`in a prefill, idle KV goes, least recently used first, and is ${where}: no answer is another`, async () => {
      await using server = await cramped(options);
      const { engine } = server;
      let last = 0;
      for (;; last++) {
        const { status } = await server.ask(prompt(last, 1200), { session: `s${last}` });
        assert.equal(status, 200);
        if (engine.sessions.stats().evictions > 0) break;
      }
      assert.deepEqual([state(server, "s0"), state(server, "s1"), state(server, `s${last}`)], [where, "hot", "hot"]);
      await checkLastAnswer(server, `s${last}`);
      await checkCounts(server);
      const append = { session: { id: "s0", mode: "append" } };
      const { status, hearth } = await server.ask(prompt(0, 20), append);
      assert.deepEqual([status, hearth.session.turn, hearth.cache.reason], [200, 2, reason]);
      await checkLastAnswer(server, "s0");
      assert.deepEqual([state(server, "s0"), state(server, "s1")], ["hot", where]);
      await checkCounts(server);
    });
  }

  test("in prefills beside streams: those that find no room are refused, the others go on", async () => {
    await using server = await cramped();
    const { engine } = server;
    await server.ask(prompt(12, 50), { session: "idle" });
    const ids = Array.from({ length: 9 }, (_, i) => `s${i}`);
    const answers = await Promise.all(
      ids.map((session, i) => server.ask(prompt(i, 1000), { session, max_tokens: 100 })),
    );
    const refused = ids.filter((_, i) => answers[i]!.status !== 200);
    assert.ok(refused.length > 0 && refused.length < ids.length - 2, `${refused.length} refused`);
    for (const { status, error } of answers.filter(({ status }) => status !== 200)) {
      assert.deepEqual([status, error!.code], [503, "out_of_memory"]);
      assert.match(
        error!.message,
        /^Cannot run a pass over [\d +]+ tokens: the WASM heap is full at 13 MiB, \d MiB of/,
      );
    }
    assert.equal(state(server, "idle"), "cold");
    await checkCounts(server);
    for (const [i, id] of ids.entries()) {
      if (refused.includes(id)) {
        assert.equal(state(server, id), undefined, "a turn that failed made no session");
        assert.equal((await server.ask(prompt(i, 1000), { session: id })).status, 200);
      }
      await checkLastAnswer(server, id);
    }
    for (const { id } of engine.sessions.list()) await engine.sessions.delete(id);
    assert.deepEqual(await server.backend.stats(), { kvBlocks: 0, kvBytes: 0 });
  });

  test("in the middle of streams: one ends in an error event, the others go on, the next turn is right", async () => {
    await using server = await cramped();
    const { engine } = server;
    const ids = ["s0", "s1", "s2"];
    for (const [i, session] of ids.entries()) await server.ask(prompt(i, 1200), { session, max_tokens: 8 });
    const append = (id: string, fields: object) => ({
      messages: prompt(0, 20),
      session: { id, mode: "append" },
      ignore_eos: true,
      ...fields,
    });
    const streams = await Promise.all(ids.map(async (id) => {
      const response = await server.post("/v1/chat/completions", append(id, { stream: true, max_tokens: 1000 }));
      return sseEvents(await response.text());
    }));
    const failed = ids.filter((_, i) => streams[i]!.at(-1)!.data.error);
    assert.equal(failed.length, 1);
    const events = streams[ids.indexOf(failed[0]!)]!;
    assert.ok(events.length > 100, "it was in the middle");
    assert.deepEqual(events.at(-1)!.data.error.code, "out_of_memory");
    assert.deepEqual(ids.map((id) => engine.sessions.inspect(id).turn), ids.map((id) => failed.includes(id) ? 1 : 2));
    await checkCounts(server);
    const { status, hearth } = await server.ask(prompt(0, 20), append(failed[0]!, { max_tokens: 30 }));
    assert.deepEqual([status, hearth.session.turn, hearth.session.state_before], [200, 2, "cold"]);
    for (const id of ids) await checkLastAnswer(server, id);
    await checkCounts(server);
  });
});
