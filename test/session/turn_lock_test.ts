import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SessionBusyError, TurnSupersededError } from "../../src/errors.ts";
import { TurnLock } from "../../src/session/turn_lock.ts";

/** What a promise has come to, without waiting for it. */
const settled = async (promise: Promise<unknown>) =>
  await Promise.race([promise.then(() => "done", () => "failed"), new Promise((r) => setTimeout(r, 5, "waiting"))]);

describe("TurnLock", () => {
  test("goes to one at a time, in order of arrival", async () => {
    const lock = new TurnLock("s");
    const first = await lock.acquire();
    await assert.rejects(lock.acquire(), SessionBusyError);
    const second = lock.acquire({ onBusy: "queue" });
    const third = lock.acquire({ onBusy: "queue" });
    assert.deepEqual([await settled(second), lock.busy], ["waiting", true]);
    first.release();
    first.release();
    (await second).release();
    (await third).release();
    assert.equal(lock.free, true);
  });

  test("work between turns is waited for, and does not begin while somebody waits", async () => {
    const lock = new TurnLock("s");
    const work = lock.tryWork()!;
    assert.deepEqual([lock.tryWork(), lock.busy], [undefined, false]);
    const turn = lock.acquire();
    await assert.rejects(lock.acquire(), SessionBusyError);
    work.release();
    assert.equal(lock.tryWork(), undefined);
    (await turn).release();
    assert.notEqual(lock.tryWork(), undefined);
  });

  test("a turn that is ending is waited for", async () => {
    const lock = new TurnLock("s");
    const first = await lock.acquire();
    first.ending = true;
    const second = lock.acquire();
    assert.equal(await settled(second), "waiting");
    first.release();
    await second;
  });

  test("who supersedes ends the running turn and goes first; the newest of them wins", async () => {
    const lock = new TurnLock("s");
    const running = await lock.acquire();
    const queued = lock.acquire({ onBusy: "queue" });
    const older = lock.acquire({ onBusy: "supersede" });
    const olderFails = assert.rejects(older, TurnSupersededError);
    const newer = lock.acquire({ onBusy: "supersede" });
    await olderFails;
    assert.ok(running.signal.reason instanceof TurnSupersededError);
    running.release();
    const hold = await newer;
    assert.equal(await settled(queued), "waiting");
    hold.release();
    await queued;
  });

  test("who waits may leave, and is not given the turn", async () => {
    const lock = new TurnLock("s");
    const running = await lock.acquire();
    const abort = new AbortController();
    const leaving = lock.acquire({ onBusy: "queue", signal: abort.signal });
    const staying = lock.acquire({ onBusy: "queue" });
    abort.abort(new Error("left"));
    await assert.rejects(leaving, /left/);
    running.release();
    (await staying).release();
    assert.equal(lock.free, true);
  });
});
