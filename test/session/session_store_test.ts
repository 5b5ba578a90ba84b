import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { OutOfMemoryError, SessionBusyError } from "../../src/errors.ts";
import type { Session } from "../../src/session/session.ts";
import { SessionStore } from "../../src/session/session_store.ts";
import { FAKE_BYTES_PER_TOKEN, FakeBackend } from "../fakes/fake_backend.ts";

const backend = new FakeBackend({ vocabSize: 16 });
const kib = (tokens: number) => tokens * FAKE_BYTES_PER_TOKEN;

/** Evaluates tokens up to `length` in the session's cache, as a turn would. */
async function fill(session: Session, length: number) {
  session.kv ??= backend.createKvCache();
  const tokenIds = Array.from({ length: length - session.kv.length }, (_, i) => i % 16);
  if (tokenIds.length > 0) await backend.forward([{ cache: session.kv, tokenIds }]);
  session.cachedIds.push(...tokenIds);
}

/** One turn that leaves `tokens` in the session. */
async function turn(store: SessionStore, id: string, tokens: number) {
  const session = store.begin(id);
  store.reserve(session, kib(tokens));
  await fill(session, Math.max(tokens, session.cachedIds.length));
  store.end(session);
  return session;
}

describe("SessionStore", () => {
  test("begin() refuses a second turn until the first ends", () => {
    using store = new SessionStore({ kvBudgetBytes: 1000 });
    const session = store.begin("a");
    assert.throws(() => store.begin("a"), SessionBusyError);
    store.end(session);
    assert.equal(store.begin("a"), session);
  });

  test("reserve() evicts the least recently used idle KV and keeps the session", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10) });
    const a = await turn(store, "a", 4);
    const b = await turn(store, "b", 4);
    await turn(store, "a", 5);
    await turn(store, "c", 4);
    assert.equal(b.kv, undefined);
    assert.deepEqual(b.cachedIds, []);
    assert.equal(a.cachedIds.length, 5);
    assert.equal(store.peek("b"), b);
    assert.equal(store.stats().evictions, 1);
  });

  test("reserve() fails when running turns hold the budget, and takes nothing", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10) });
    await turn(store, "idle", 2);
    const running = store.begin("running");
    store.reserve(running, kib(8));
    const refused = store.begin("late");
    assert.throws(() => store.reserve(refused, kib(3)), OutOfMemoryError);
    store.end(refused);
    assert.equal(store.peek("idle")?.cachedIds.length, 2);
    const fits = store.begin("fits");
    store.reserve(fits, kib(2));
    assert.equal(store.peek("idle")?.cachedIds.length, 0);
  });

  test("end() frees what has no id", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10) });
    const session = store.begin(undefined);
    await fill(session, 3);
    store.end(session);
    assert.equal(session.kv, undefined);
    assert.equal(store.stats().kvBytes, 0);
  });

  test("delete() during a turn frees the memory when the turn ends", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10) });
    const session = store.begin("a");
    await fill(session, 3);
    assert.equal(store.delete("a"), true);
    assert.equal(session.cachedIds.length, 3);
    const next = store.begin("a");
    assert.notEqual(next, session);
    store.end(session);
    assert.equal(session.kv, undefined);
    store.end(next);
    assert.equal(store.peek("a"), next);
  });

  test("a session is forgotten after its TTL, without anybody asking", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10), ttlMs: 20 });
    const session = await turn(store, "a", 3);
    await new Promise((resolve) => setTimeout(resolve, 80));
    assert.equal(session.kv, undefined);
    assert.equal(store.stats().sessions, 0);
  });

  test("a running turn outlives its session's TTL", async () => {
    using store = new SessionStore({ kvBudgetBytes: kib(10), ttlMs: 20 });
    await turn(store, "a", 3);
    const session = store.begin("a");
    await new Promise((resolve) => setTimeout(resolve, 60));
    assert.equal(session.cachedIds.length, 3);
    store.end(session);
    assert.equal(store.peek("a"), session);
  });

  test("bytes stay within the budget and nothing leaks, whatever happens", async () => {
    const command = fc.record({
      kind: fc.constantFrom("begin", "end", "delete"),
      id: fc.constantFrom("a", "b", "c", "d", undefined),
      tokens: fc.integer({ min: 1, max: 8 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(command, { maxLength: 40 }), async (commands) => {
        const before = backend.caches.size;
        const store = new SessionStore({ kvBudgetBytes: kib(12) });
        const open: Session[] = [];
        for (const { kind, id, tokens } of commands) {
          if (kind === "begin") {
            try {
              const session = store.begin(id);
              try {
                store.reserve(session, kib(tokens));
                await fill(session, Math.max(tokens, session.cachedIds.length));
                open.push(session);
              } catch (error) {
                assert.ok(error instanceof OutOfMemoryError);
                store.end(session);
              }
            } catch (error) {
              assert.ok(error instanceof SessionBusyError);
            }
          } else if (kind === "end") {
            const session = open.shift();
            if (session) store.end(session);
          } else if (id) store.delete(id);
          assert.ok(store.stats().kvBytes <= kib(12), `${store.stats().kvBytes} bytes held`);
        }
        store[Symbol.dispose]();
        for (const session of open) store.end(session);
        assert.equal(backend.caches.size, before);
      }),
      { numRuns: 300 },
    );
  });
});
