import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  OutOfMemoryError,
  SessionBusyError,
  SessionGoneError,
  SessionLimitError,
  SessionNotFoundError,
} from "../../src/errors.ts";
import { KvTiers, type KvTiersOptions } from "../../src/session/kv_tiers.ts";
import { Session } from "../../src/session/session.ts";
import { type HeldSession, SessionStore, type SessionStoreOptions } from "../../src/session/session_store.ts";
import type { SessionJournal } from "../../src/session/session_journal.ts";
import { FAKE_BYTES_PER_TOKEN, FakeBackend } from "../fakes/fake_backend.ts";

const kib = (tokens: number) => tokens * FAKE_BYTES_PER_TOKEN;
const named = (id: string) => ({ tenant: "t", id });
/** Keeps nothing, and says that it did. */
const JOURNAL: SessionJournal = {
  key: ({ tenant, id }) => `${tenant}/${id}`,
  append: () => Promise.resolve(),
  remove: () => Promise.resolve(),
  unreadable: () => undefined,
  discard: () => Promise.resolve(false),
};
const NOTHING = { keep: { ids: 0, messages: 0, turns: 0 }, ids: [], messages: [], turns: [] };

function setUp({ hot, ...options }: { hot: number } & Partial<KvTiersOptions> & SessionStoreOptions) {
  const backend = new FakeBackend({ vocabSize: 16 });
  const tiers = new KvTiers(backend, { hotBytes: kib(hot), parking: { pays: () => true }, ...options });
  const store = new SessionStore(tiers, options);
  const kvOf = (id: string) => store.peek(named(id))!.kv;

  /** Evaluates tokens up to `length` in the session's cache, as a turn would. */
  async function fill({ session: { kv } }: HeldSession, length: number) {
    kv.cache ??= backend.createKvCache();
    const tokenIds = Array.from({ length: length - kv.ids.length }, (_, i) => i % 16);
    if (tokenIds.length > 0) await backend.forward([{ cache: kv.cache, tokenIds }]);
    kv.ids.push(...tokenIds);
  }

  /** One turn that leaves `tokens` in the session. */
  async function turn(id: string, tokens: number, tenant = "t") {
    const held = await store.begin({ tenant, id });
    await tiers.reserve(held.session, kib(tokens));
    await fill(held, Math.max(tokens, held.session.kv.ids.length));
    await store.commit(held.session, NOTHING);
    store.end(held);
    return held.session;
  }
  return { backend, tiers, store, kvOf, fill, turn };
}

describe("SessionStore", () => {
  test("begin() refuses a second turn until the first ends", async () => {
    const { store } = setUp({ hot: 100 });
    const held = await store.begin(named("a"));
    await assert.rejects(store.begin(named("a")), SessionBusyError);
    await store.commit(held.session, NOTHING);
    store.end(held);
    assert.equal((await store.begin(named("a"))).session, held.session);
  });

  test("a session of which nothing came is not there", async () => {
    const { store } = setUp({ hot: 100 });
    store.end(await store.begin(named("a")));
    assert.throws(() => store.get(named("a")), SessionNotFoundError);
    assert.equal(store.stats().sessions, 0);
  });

  test("a session that is deleted while its turn is written is gone, and says why", async () => {
    const written = Promise.withResolvers<void>();
    const { store } = setUp({ hot: 100, journal: { ...JOURNAL, append: () => written.promise } });
    const held = await store.begin(named("a"));
    const commit = store.commit(held.session, NOTHING);
    assert.equal(await store.delete(named("a")), true);
    written.resolve();
    await commit;
    store.end(held);
    assert.throws(
      () => store.get(named("a")),
      (error) => error instanceof SessionGoneError && error.reason === "deleted",
    );
  });

  test("tenants do not see each other's sessions", async () => {
    const { store, turn } = setUp({ hot: 100 });
    await turn("a", 3);
    assert.equal(store.peek({ tenant: "other", id: "a" }), undefined);
    assert.deepEqual([store.list("t").length, store.list("other").length], [1, 0]);
  });

  test("end() frees what has no name", async () => {
    const { store, tiers, fill } = setUp({ hot: 10 });
    const held = await store.single();
    await fill(held, 3);
    store.end(held);
    assert.equal(held.session.kv.cache, undefined);
    assert.equal(tiers.stats().hotBytes, 0);
  });

  test("delete() during a turn frees the memory when the turn ends", async () => {
    const { store, fill, backend } = setUp({ hot: 10 });
    const held = await store.begin(named("a"));
    await fill(held, 3);
    assert.equal(await store.delete(named("a")), true);
    assert.equal(held.session.kv.ids.length, 3);
    assert.throws(() => store.get(named("a")), SessionGoneError);
    const next = await store.begin(named("a"));
    assert.notEqual(next.session, held.session);
    store.end(held);
    assert.equal(backend.caches.size, 0);
    await store.commit(next.session, NOTHING);
    store.end(next);
    assert.equal(store.peek(named("a")), next.session);
  });

  test("a session is gone after its TTL, without anybody asking", async () => {
    const { store, turn } = setUp({ hot: 10, ttlMs: 20 });
    const session = await turn("a", 3);
    await new Promise((resolve) => setTimeout(resolve, 80));
    assert.equal(session.kv.cache, undefined);
    assert.equal(store.stats().sessions, 0);
    assert.throws(() => store.get(named("a")), /it is expired/);
  });

  test("a session is gone the moment its TTL ends, before a timer goes off, and leaves nothing to the next", async () => {
    const { store, turn, backend } = setUp({ hot: 20, ttlMs: 20 });
    const [a, b] = [await turn("a", 3), await turn("b", 3)];
    while (Date.now() <= b.expiresAt);
    assert.deepEqual(store.list("t"), []);
    assert.throws(() => store.get(named("a")), /it is expired/);
    const { session } = await store.begin(named("b"));
    assert.notEqual(session, b);
    assert.deepEqual([a.closed, b.closed, backend.caches.size, store.stats().sessions], [true, true, 0, 1]);
  });

  test("a running turn outlives its session's TTL", async () => {
    const { store, turn } = setUp({ hot: 10, ttlMs: 200 });
    await turn("a", 3);
    const held = await store.begin(named("a"));
    await new Promise((resolve) => setTimeout(resolve, 400));
    assert.equal(held.session.kv.ids.length, 3);
    assert.deepEqual(store.list("t"), [held.session]);
    await store.commit(held.session, NOTHING);
    store.end(held);
    assert.equal(store.peek(named("a")), held.session);
  });

  test("what changes nothing does not prolong a session", async () => {
    const { store, turn } = setUp({ hot: 10, ttlMs: 200 });
    const session = await turn("a", 3);
    const { expiresAt } = session;
    const held = await store.take(named("a"));
    const waiting = store.take(named("a"), { onBusy: "queue" });
    while (Date.now() <= expiresAt);
    store.end(held);
    // Who came in time has its turn.
    assert.equal(store.peek(named("a")), session);
    store.end(await waiting);
    assert.equal(session.expiresAt, expiresAt);
    assert.throws(() => store.get(named("a")), { reason: "expired" });
  });

  test("a session that lives for longer than a timer can wait has none", async () => {
    const { setTimeout } = globalThis;
    const waits: number[] = [];
    globalThis.setTimeout = ((work: () => void, ms: number) => {
      waits.push(ms);
      return setTimeout(work, Math.min(ms, 1000));
    }) as typeof setTimeout;
    try {
      const { store } = setUp({ hot: 100, ttlMs: Infinity });
      for (const ttlMs of [undefined, 30 * 24 * 3600_000, 3600_000]) {
        const held = await store.begin(named(`${ttlMs}`));
        await store.commit(held.session, NOTHING, ttlMs);
        store.end(held);
      }
      assert.equal(store.list("t").length, 3);
    } finally {
      globalThis.setTimeout = setTimeout;
    }
    assert.deepEqual(waits.filter((ms) => ms > 1000).map((ms) => Math.round(ms / 3600_000)), [1]);
  });

  test("a tenant with too many sessions loses the one it has not used for longest, and no other tenant does", async () => {
    const { store, turn, backend } = setUp({ hot: 100, maxSessions: 2 });
    await turn("a", 3, "other");
    for (const id of ["a", "b", "a", "c"]) await turn(id, 3);
    assert.deepEqual([store.list("t").map(({ name }) => name!.id), store.list("other").length], [["c", "a"], 1]);
    assert.throws(() => store.get(named("b")), { reason: "evicted" });
    assert.equal(backend.caches.size, 3);
    // What comes to nothing takes nobody's place.
    store.end(await store.begin(named("d")));
    assert.equal(store.list("t").length, 2);
  });

  test("what a journal keeps is not forgotten to make room: a new session is refused until one is deleted", async () => {
    const { store, turn } = setUp({ hot: 100, maxSessions: 2, journal: JOURNAL });
    // As many as an earlier start allowed.
    for (const id of ["a", "b", "c"]) {
      store.recover(new Session(named(id), { key: JOURNAL.key(named(id)) }), Date.now());
    }
    const running = await store.begin(named("a"));
    await assert.rejects(turn("d", 3), SessionLimitError);
    assert.throws(() => store.make(named("d")), SessionLimitError);
    assert.equal(store.list("t").length, 3);
    await turn("b", 3);
    await turn("d", 3, "other");
    store.end(running);
    for (const id of ["a", "c"]) await store.delete(named(id));
    await turn("d", 3);
    assert.deepEqual(store.list("t").map(({ name }) => name!.id), ["d", "b"]);
  });

  test("dispose gives all memory back, running turns' when they end", async () => {
    const { store, turn, fill, backend } = setUp({ hot: 10 });
    await turn("a", 3);
    const held = await store.begin(named("b"));
    await fill(held, 3);
    store[Symbol.dispose]();
    assert.equal(backend.caches.size, 1);
    store.end(held);
    assert.equal(backend.caches.size, 0);
  });
});

describe("KvTiers", () => {
  test("reserve() evicts the least recently used idle KV and keeps the session", async () => {
    const { tiers, turn, kvOf } = setUp({ hot: 10 });
    for (const [id, tokens] of [["a", 4], ["b", 4], ["a", 5], ["c", 4]] as const) await turn(id, tokens);
    assert.deepEqual([kvOf("a").state, kvOf("b").state, kvOf("c").state], ["hot", "cold", "hot"]);
    assert.equal(kvOf("b").ids.length, 0);
    assert.equal(tiers.stats().evictions, 1);
  });

  test("reserve() fails when running turns hold the budget, and takes nothing", async () => {
    const { store, tiers, turn, kvOf } = setUp({ hot: 10 });
    await turn("idle", 2);
    const running = await store.begin(named("running"));
    await tiers.reserve(running.session, kib(8));
    const refused = await store.begin(named("late"));
    await assert.rejects(tiers.reserve(refused.session, kib(3)), OutOfMemoryError);
    store.end(refused);
    assert.equal(kvOf("idle").ids.length, 2);
    const fits = await store.begin(named("fits"));
    await tiers.reserve(fits.session, kib(2));
    assert.equal(kvOf("idle").ids.length, 0);
  });

  test("KV that has to go is kept in host memory as far as its budget goes, and comes back", async () => {
    const { store, tiers, turn, kvOf, backend } = setUp({ hot: 5, warmBytes: kib(8) });
    await turn("a", 4);
    await turn("b", 4);
    await turn("c", 4);
    assert.deepEqual([kvOf("a").state, kvOf("b").state, kvOf("c").state], ["warm", "warm", "hot"]);
    assert.deepEqual([tiers.stats().hotBytes, tiers.stats().warmBytes], [kib(4), kib(8)]);
    await turn("d", 4);
    assert.deepEqual([kvOf("a").state, kvOf("b").state, kvOf("c").state], ["cold", "warm", "warm"]);

    const held = await store.begin(named("b"));
    await tiers.reserve(held.session, kib(5));
    assert.equal(await tiers.restore(held.session), true);
    assert.equal(held.session.kv.cache!.length, 4);
    store.end(held);
    // While b came back, its bytes in host memory left no room for both others.
    assert.deepEqual([kvOf("b").state, kvOf("c").state, kvOf("d").state], ["hot", "cold", "warm"]);
    assert.equal(backend.caches.size, 1);
  });

  test("sessions that leave at once do not both find the last room in host memory", async () => {
    const { store, tiers, turn, kvOf } = setUp({ hot: 12, warmBytes: kib(6) });
    await turn("a", 1);
    await turn("b", 6);
    const held = await store.begin(named("c"));
    await tiers.reserve(held.session, kib(12));
    assert.deepEqual([kvOf("a").state, kvOf("b").state, tiers.stats().warmBytes], ["warm", "cold", kib(1)]);
  });

  test("KV that is faster to evaluate than to restore is dropped", async () => {
    const { turn, kvOf } = setUp({ hot: 5, warmBytes: kib(8), parking: { pays: () => false } });
    await turn("a", 4);
    await turn("b", 4);
    assert.equal(kvOf("a").state, "cold");
  });

  test("a session that is deleted while it is parked leaves nothing", async () => {
    const { store, tiers, turn, backend } = setUp({ hot: 5, warmBytes: kib(8) });
    backend.delayMs = 5;
    await turn("a", 4);
    const held = await store.begin(named("b"));
    const room = tiers.reserve(held.session, kib(4));
    await store.delete(named("a"));
    await room;
    assert.equal(backend.caches.size, 0);
    assert.equal(tiers.stats().warmBytes, 0);
  });

  test("bytes stay within the budget and nothing leaks, whatever happens", async () => {
    const command = fc.record({
      kind: fc.constantFrom("begin", "end", "delete", "restore"),
      id: fc.constantFrom("a", "b", "c", "d", undefined),
      tokens: fc.integer({ min: 1, max: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 40 }), fc.nat(20), async (commands, warm) => {
        const { store, tiers, fill, backend } = setUp({ hot: 12, warmBytes: kib(warm) });
        const open: HeldSession[] = [];
        for (const { kind, id, tokens } of commands) {
          if (kind === "begin" || kind === "restore") {
            try {
              const held = id === undefined ? await store.single() : await store.begin(named(id));
              try {
                await tiers.reserve(held.session, kib(8));
                if (kind === "restore") await tiers.restore(held.session);
                else tiers.drop(held.session);
                await fill(held, Math.max(tokens, held.session.kv.ids.length));
                await store.commit(held.session, NOTHING);
                open.push(held);
              } catch (error) {
                assert.ok(error instanceof OutOfMemoryError, error as Error);
                store.end(held);
              }
            } catch (error) {
              assert.ok(error instanceof SessionBusyError, error as Error);
            }
          } else if (kind === "end") {
            const held = open.shift();
            if (held) store.end(held);
          } else if (id) await store.delete(named(id));
          const { hotBytes, warmBytes } = tiers.stats();
          assert.ok(hotBytes <= kib(12) && warmBytes <= kib(warm), `${hotBytes} and ${warmBytes} bytes held`);
          assert.equal(hotBytes, [...backend.caches].reduce((bytes, cache) => bytes + cache.bytes, 0));
        }
        store[Symbol.dispose]();
        for (const held of open) store.end(held);
        assert.equal(backend.caches.size, 0);
        assert.equal(tiers.stats().warmBytes, 0);
      }),
      { numRuns: 300 },
    );
  });
});
