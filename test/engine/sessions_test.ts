import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Engine } from "../../src/engine/engine.ts";
import { InvalidRequestError, SessionBusyError, SessionExistsError, TurnMismatchError } from "../../src/errors.ts";
import { FAKE_BYTES_PER_TOKEN } from "../fakes/fake_backend.ts";
import { collect, fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";

/** An engine whose session `s` has three turns of three ids and two answered. */
async function withTurns(options: FakeEngineOptions = {}) {
  const started = fakeEngine({ vocabSize: 50, ...options });
  for (let turn = 0; turn < 3; turn++) await append(started, "s", [turn, 1, 2], turn);
  return started;
}

async function append({ engine }: ReturnType<typeof fakeEngine>, id: string, ids: number[], ifTurn?: number) {
  const session = { id, mode: "append" as const, ifTurn };
  return await collect(engine.generate({ prompt: { ids }, maxTokens: 2, ignoreEos: true, session }));
}

describe("Sessions.create(), inspect(), list()", () => {
  test("an empty session is there until its TTL, and appended to", async () => {
    const started = fakeEngine({ vocabSize: 50 });
    const { engine } = started;
    const made = await engine.sessions.create({ ttlMs: 60_000 });
    assert.match(made.id, /^[0-9a-f-]{36}$/);
    assert.deepEqual([made.turn, made.tokens, made.state, made.busy], [0, 0, "cold", false]);
    assert.ok(Math.abs(made.expiresAt! - Date.now() - 60_000) < 5_000);
    await append(started, made.id, [1]);
    await assert.rejects(engine.sessions.create({ id: made.id }), SessionExistsError);
    assert.deepEqual(engine.sessions.list().map(({ id }) => id), [made.id]);
  });

  test("what inspect() gives is the caller's own", async () => {
    const { engine } = await withTurns();
    engine.sessions.inspect("s").ids.length = 0;
    engine.sessions.inspect("s").turns[0]!.end = 0;
    assert.equal(engine.sessions.inspect("s").ids.length, 15);
    assert.equal(engine.sessions.inspect("s").turns[0]!.end, 5);
  });

  test("tenants have sessions of the same id, and see their own only", async () => {
    const { engine } = fakeEngine({ vocabSize: 50 });
    const prompt = { ids: [1, 2] };
    for (const tenant of ["a", "b"]) {
      const { end } = await collect(engine.generate({ prompt, maxTokens: 1, session: { id: "s", tenant } }));
      assert.equal(end.usage.cachedTokens, 0, "nobody's KV is another tenant's");
    }
    assert.deepEqual([engine.sessions.list(), engine.sessions.list({ tenant: "a" }).length], [[], 1]);
    assert.equal(await engine.sessions.delete("s"), false);
    assert.equal(await engine.sessions.delete("s", { tenant: "a" }), true);
    assert.equal(engine.sessions.inspect("s", { tenant: "b" }).turn, 1);
    for (const verb of ["inspect", "fork", "rewind", "park", "evict", "export"] as const) {
      const call = async () => await engine.sessions[verb]("s", { tenant: "c", toTurn: 0 });
      await assert.rejects(call, { name: "SessionNotFoundError" }, verb);
    }
  });
});

describe("a prefix that another session has", () => {
  const words = Array.from({ length: 40 }, (_, i) => i);
  const first = async (
    { engine }: ReturnType<typeof fakeEngine>,
    session: { id: string; tenant?: string },
    last: number,
  ) =>
    (await collect(engine.generate({ prompt: { ids: [...words, last] }, maxTokens: 2, ignoreEos: true, session }))).end
      .usage;

  test("is shared within a tenant, where the backend shares memory", async () => {
    const started = fakeEngine({ vocabSize: 50 });
    started.backend.info.kvShares = true;
    await first(started, { id: "a" }, 41);
    const own = await first(started, { id: "b" }, 42);
    assert.deepEqual([own.cachedTokens, own.cache.shared, own.cache.reason], [40, 40, "first_use"]);
    const other = await first(started, { id: "b", tenant: "other" }, 42);
    assert.deepEqual([other.cachedTokens, other.cache.shared], [0, 0]);
    const again = await append(started, "b", [1]);
    assert.equal(again.end.usage.cache.shared, 0);
    assert.equal(again.ids[0], started.backend.next([...started.engine.sessions.inspect("b").ids.slice(0, 44)]));
  });

  test("is evaluated anew where the backend would copy", async () => {
    const started = fakeEngine({ vocabSize: 50 });
    await first(started, { id: "a" }, 41);
    assert.equal((await first(started, { id: "b" }, 42)).cachedTokens, 0);
  });
});

describe("Sessions.fork()", () => {
  test("the fork goes on as a fresh session would, and its parent is untouched", async () => {
    for (const kvShares of [false, true]) {
      const started = await withTurns();
      const { engine, backend } = started;
      backend.info.kvShares = kvShares;
      const parent = engine.sessions.inspect("s");
      for (const atTurn of [0, 1, 2, 3]) {
        const fork = await engine.sessions.fork("s", { atTurn });
        assert.deepEqual([fork.turn, fork.tokens], [atTurn, atTurn * 5]);
        // The last sampled token of the parent has no KV.
        assert.equal(fork.cachedTokens, Math.min(fork.tokens, 14));
        const answer = await append(started, fork.id, [7]);
        const fresh = [...parent.ids.slice(0, fork.tokens), 7];
        assert.equal(answer.ids[0], backend.next(fresh));
        assert.equal(answer.end.usage.cachedTokens, fork.cachedTokens);
      }
      const { expiresAt: _, ...after } = engine.sessions.inspect("s");
      const { expiresAt: __, ...before } = parent;
      assert.deepEqual(after, before);
    }
  });

  test("without room for a copy it starts cold; of a warm session it shares the bytes", async () => {
    const full = await withTurns({ kvBudgetBytes: 20 * FAKE_BYTES_PER_TOKEN });
    assert.equal((await full.engine.sessions.fork("s")).state, "cold");
    const { engine } = await withTurns({ warmBudgetBytes: 2 ** 20, parking: { pays: () => true } });
    await engine.sessions.park("s");
    const { id, state } = await engine.sessions.fork("s", { atTurn: 2 });
    assert.equal(state, "warm");
    assert.equal(engine.sessions.stats().warmBytes, 14 * FAKE_BYTES_PER_TOKEN);
    const { end } = await append({ engine } as never, id, [7]);
    assert.deepEqual([end.usage.cachedTokens, end.usage.cache.reason], [10, "restored"]);
  });

  test("while a turn runs, it has the turns before that", async () => {
    const { engine } = await withTurns();
    const running = await engine.start({ prompt: { ids: [1] }, session: { id: "s", mode: "append" } });
    const fork = await engine.sessions.fork("s");
    assert.deepEqual([fork.turn, fork.state], [3, "cold"]);
    running.cancel();
  });

  test("of a session whose first turn then comes to nothing, it is there and empty", async () => {
    const { engine } = fakeEngine({ vocabSize: 50 });
    const running = await engine.start({ prompt: { ids: [1] }, session: { id: "s" } });
    const cancelled = assert.rejects(running[Symbol.asyncIterator]().next(), { name: "AbortError" });
    running.cancel();
    const { id, turn } = await engine.sessions.fork("s", { newId: "t" });
    await cancelled;
    assert.deepEqual([id, turn, engine.sessions.list().map(({ id }) => id)], ["t", 0, ["t"]]);
  });

  test("refuses a turn that is not there and an id that is taken", async () => {
    const { engine } = await withTurns();
    await assert.rejects(engine.sessions.fork("s", { atTurn: 4 }), InvalidRequestError);
    await assert.rejects(engine.sessions.fork("s", { newId: "s" }), SessionExistsError);
    assert.equal(engine.sessions.list().length, 1);
  });
});

describe("Sessions.rewind()", () => {
  test("to every token and turn, the session goes on as a fresh one", async () => {
    for (let toToken = 0; toToken <= 15; toToken++) {
      const started = await withTurns();
      const { engine, backend } = started;
      const { ids } = engine.sessions.inspect("s");
      const rewound = await engine.sessions.rewind("s", { toToken });
      assert.deepEqual([rewound.tokens, rewound.cachedTokens], [toToken, Math.min(toToken, 14)]);
      const answer = await append(started, "s", [9]);
      assert.equal(answer.ids[0], backend.next([...ids.slice(0, toToken), 9]));
    }
    const { engine } = await withTurns();
    assert.deepEqual((await engine.sessions.rewind("s", { toTurn: 1 })).tokens, 5);
    assert.deepEqual((await engine.sessions.rewind("s", { toTurn: 0 })).tokens, 0);
  });

  test("inside a message's answer keeps the part before; inside the question it is refused", async () => {
    const { engine } = fakeEngine();
    const messages = [{ role: "user", content: "Hello" }];
    await collect(engine.generate({ prompt: { messages }, maxTokens: 6, ignoreEos: true, session: { id: "s" } }));
    const { turns: [turn], ids } = engine.sessions.inspect("s");
    const toToken = turn!.replyStart + 3;
    await engine.sessions.rewind("s", { toToken });
    const after = engine.sessions.inspect("s");
    assert.equal(after.turns[0]!.finishReason, "rewound");
    assert.equal(after.messages[1]!.content, engine.tokenizer.decode(ids.slice(turn!.replyStart, toToken)));
    await assert.rejects(engine.sessions.rewind("s", { toToken: 2 }), /inside a message of turn 1/);
  });

  test("refuses what is not there, another turn, and a running session", async () => {
    const { engine } = await withTurns();
    for (const target of [{ toTurn: 4 }, { toTurn: -1 }, { toToken: 16 }, { toToken: 0.5 }]) {
      await assert.rejects(engine.sessions.rewind("s", target), InvalidRequestError);
    }
    await assert.rejects(engine.sessions.rewind("s", { toTurn: 1, ifTurn: 2 }), TurnMismatchError);
    const running = await engine.start({ prompt: { ids: [1] }, session: { id: "s", mode: "append" } });
    await assert.rejects(engine.sessions.rewind("s", { toTurn: 1 }), SessionBusyError);
    running.cancel();
    assert.equal(engine.sessions.inspect("s").turn, 3);
  });
});

describe("a session that is deleted while somebody waits for it", () => {
  const calls: Record<string, (engine: Engine) => Promise<unknown>> = {
    "a rewind": ({ sessions }) => sessions.rewind("s", { toTurn: 0 }),
    "an export": ({ sessions }) => sessions.export("s"),
    "an eviction": ({ sessions }) => sessions.evict("s"),
    "a turn that goes on": (engine) =>
      engine.start({ prompt: { ids: [1] }, session: { id: "s", mode: "append", onBusy: "queue" } }),
  };
  for (const [what, call] of Object.entries(calls)) {
    test(`is gone for ${what}, and stays away`, async () => {
      const { engine, backend } = await withTurns();
      const running = await engine.start({ prompt: { ids: [1] }, session: { id: "s", mode: "append" } });
      const cancelled = assert.rejects(running[Symbol.asyncIterator]().next(), { name: "AbortError" });
      running.cancel();
      const waiting = assert.rejects(call(engine), { name: "SessionGoneError", reason: "deleted" });
      await engine.sessions.delete("s");
      await Promise.all([cancelled, waiting]);
      assert.throws(() => engine.sessions.describe("s"), { reason: "deleted" });
      assert.equal(backend.caches.size, 0);
    });
  }

  test("is not there for who waited for its first turn, if that came to nothing", async () => {
    const { engine } = fakeEngine({ vocabSize: 50 });
    const running = await engine.start({ prompt: { ids: [1] }, session: { id: "s" } });
    const cancelled = assert.rejects(running[Symbol.asyncIterator]().next(), { name: "AbortError" });
    running.cancel();
    await assert.rejects(engine.sessions.export("s"), { name: "SessionNotFoundError" });
    await cancelled;
    assert.deepEqual(engine.sessions.list(), []);
  });
});

describe("Sessions.plan()", () => {
  test("says what the turn then does, and runs nothing", async () => {
    const started = await withTurns({ kvBudgetBytes: 40 * FAKE_BYTES_PER_TOKEN });
    const { engine, backend } = started;
    const passes = backend.passes.length;
    const request = {
      prompt: { ids: [5, 6] },
      maxTokens: 2,
      ignoreEos: true,
      session: { id: "s", mode: "append" as const },
    };
    const plan = await engine.sessions.plan(request);
    assert.equal(backend.passes.length, passes);
    const { end } = await collect(engine.generate(request));
    assert.equal(plan.promptTokens, end.usage.promptTokens);
    assert.equal(plan.reusedTokens, end.usage.cachedTokens);
    assert.equal(plan.newTokens, end.usage.promptTokens - end.usage.cachedTokens);
    assert.equal(plan.cache.reason, end.usage.cache.reason);
    assert.deepEqual([plan.turn, plan.maxTokens, plan.fits], [3, 2, true]);
    assert.equal(plan.bytes, 19 * FAKE_BYTES_PER_TOKEN);
    assert.ok(plan.predictedTtftMs! > 0);
    assert.equal((await engine.sessions.plan({ ...request, maxTokens: 40 })).fits, false);
    await assert.rejects(
      engine.sessions.plan({ ...request, session: { ...request.session, ifTurn: 1 } }),
      TurnMismatchError,
    );
    await assert.rejects(engine.sessions.plan({ ...request, maxTokens: -1 }), InvalidRequestError);
    const fresh = await fakeEngine().engine.sessions.plan({ prompt: { ids: [1, 2] } });
    assert.deepEqual([fresh.reusedTokens, fresh.predictedTtftMs], [0, undefined]);
  });

  test("counts what another session of the tenant has, and nothing of another tenant's", async () => {
    const { engine, backend } = fakeEngine();
    backend.info.kvShares = true;
    const ids = Array.from({ length: 60 }, (_, i) => 1 + i);
    const ask = (id: string, tenant: string) => ({
      prompt: { ids },
      session: { id, tenant },
      maxTokens: 2,
      ignoreEos: true,
    });
    await collect(engine.generate(ask("first", "a")));
    for (const [request, reused] of [[ask("second", "a"), 59], [ask("second", "b"), 0]] as const) {
      assert.equal((await engine.sessions.plan(request)).reusedTokens, reused);
      assert.equal((await collect(engine.generate(request))).end.usage.cachedTokens, reused);
    }
  });

  test("says of parked KV that it is restored only where it is: another session may have had the same", async () => {
    for (const pays of [true, false]) {
      const started = fakeEngine({ vocabSize: 50, warmBudgetBytes: 2 ** 20, parking: { pays: () => parks || pays } });
      let parks = true;
      const { engine, backend } = started;
      backend.info.kvShares = true;
      await append(started, "s", Array.from({ length: 40 }, (_, i) => i), 0);
      await engine.sessions.fork("s", { newId: "fork" });
      await engine.sessions.park("s");
      parks = false;
      const request = {
        prompt: { ids: [5] },
        maxTokens: 2,
        ignoreEos: true,
        session: { id: "s", mode: "append" as const },
      };
      const plan = await engine.sessions.plan(request);
      const { cache } = (await collect(engine.generate(request))).end.usage;
      const reason = pays ? "restored" : "none";
      assert.deepEqual([plan.cache.reason, plan.reusedTokens], [reason, 41]);
      assert.deepEqual([cache.reason, cache.reused, cache.shared], [reason, 41, pays ? 0 : 41]);
      assert.deepEqual([cache.stateBefore, engine.sessions.stats().restores], ["warm", pays ? 1 : 0]);
    }
  });

  test("counts the room that parked KV needs when it comes back", async () => {
    const { engine, backend } = fakeEngine({ parking: { pays: () => true }, warmBudgetBytes: 2 ** 20 });
    const session = { id: "s" };
    const ids = Array.from({ length: 60 }, (_, i) => 1 + i);
    await collect(engine.generate({ prompt: { ids }, session, maxTokens: 2, ignoreEos: true }));
    await engine.sessions.park("s");
    const plan = await engine.sessions.plan({ prompt: { ids: ids.slice(0, 30) }, session, maxTokens: 2 });
    assert.equal(plan.reusedTokens, 29);
    assert.equal(plan.bytes, backend.kvBytes(61));
  });
});
