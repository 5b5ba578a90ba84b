import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import type { RestartOptions } from "../../../src/backend/restart_policy.ts";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import type { ThreadBackend } from "../../../src/backend/thread_backend.ts";
import { BackendUnavailableError } from "../../../src/errors.ts";
import { crashThread, killThread } from "../crash_thread.ts";
import { type TinyModel, tinyModel } from "../tiny_model.ts";

const IDS = Array.from({ length: 60 }, (_, i) => (7 * i) % 40);
/** What a backend would refuse: the engine's own check traps, on whichever threads come to it. */
const POISON = {
  cacheId: 99,
  start: 0,
  tokenIds: IDS.map(() => 1e6),
  logits: "last",
  hiddenStates: false,
  top: undefined,
  inspect: [],
} as const;

/** Waits for the replacement. */
async function revived(backend: ThreadBackend): Promise<void> {
  while (backend.failure) await new Promise((resolve) => setTimeout(resolve, 10));
}

for (const threads of [1, 3]) {
  test(`on ${threads} threads, an inference thread that traps is reported and replaced`, async () => {
    await using model = await tinyModel();
    const crashes: string[] = [];
    const onCrash = ({ message }: Error) => crashes.push(message);
    await using backend = await createSimdBackend({
      modelDir: model.path,
      config: model.config,
      threads,
      onCrash,
    }) as ThreadBackend;
    using early = backend.createKvCache();
    using cache = backend.createKvCache();
    const [want] = await backend.forward([{ cache, tokenIds: IDS }]);

    for (const round of [1, 2]) {
      const dead = backend.thread;
      await assert.rejects(dead.run([POISON]), { name: "BackendUnavailableError", message: /the engine trapped/ });
      await dead.died;
      assert.ok(backend.failure instanceof BackendUnavailableError);
      await assert.rejects(backend.forward([{ tokenIds: IDS }]), BackendUnavailableError);
      await revived(backend);
      assert.notEqual(backend.thread, dead);
      assert.equal(crashes.length, round);
      assert.match(crashes.at(-1)!, /the inference thread is gone/);

      assert.ok(cache.lost);
      assert.equal(cache.bytes, 0);
      await assert.rejects(backend.forward([{ cache, tokenIds: [1] }]), { message: /lost/ });
      // A cache without tokens has lost nothing.
      assert.equal(early.lost, round === 2);
      const [again] = await backend.forward([{ cache: round === 1 ? early : undefined, tokenIds: IDS }]);
      assert.deepEqual(again!.logits, want!.logits);
    }
  });
}

describe("threads that die one after the other, before a first pass,", () => {
  let model: TinyModel;
  before(async () => void (model = await tinyModel()));
  after(async () => await model[Symbol.asyncDispose]());

  async function start(restarts: RestartOptions) {
    const log: string[] = [];
    const onCrash = ({ message }: Error) => log.push(message);
    const options = { modelDir: model.path, config: model.config, restarts, onCrash };
    return { log, backend: await createSimdBackend(options) as ThreadBackend };
  }

  test("are replaced so often, then not until a rest is over and somebody asks, then so often again", async () => {
    const { log, backend } = await start({ most: 2, pauseMs: 5, restMs: 1000 });
    await using _ = backend;
    for (const [round, starts] of [2, 1].entries()) {
      for (let started = 0; started < starts; started++) await crashThread(backend);
      const last = backend.thread;
      await killThread(backend);
      await sleep(1);
      assert.match(
        backend.failure!.message,
        /came to nothing 2 times, and is tried again when a request comes in 1 s or later/,
      );
      assert.equal(log.length, [4, 7][round], "each crash, and each rest");
      // Asking too early starts nothing, nor does time alone.
      await assert.rejects(backend.forward([{ tokenIds: IDS }]), BackendUnavailableError);
      await sleep(1300);
      assert.equal(backend.thread, last);
      await assert.rejects(backend.forward([{ tokenIds: IDS }]), BackendUnavailableError);
      await revived(backend);
      assert.notEqual(backend.thread, last);
    }
    await backend.forward([{ tokenIds: IDS }]);
    // A pass was run: it counts anew.
    for (let started = 0; started < 2; started++) await crashThread(backend);
    await backend.forward([{ tokenIds: IDS }]);
  });

  test("hold nothing up when the backend is closed in a pause or in a rest", async () => {
    for (const restarts of [{ pauseMs: 1e9 }, { most: 0, restMs: 1e9 }, { most: 0, restMs: 0 }]) {
      const { backend } = await start(restarts);
      if (restarts.most === undefined) await crashThread(backend);
      await killThread(backend);
      await sleep(10);
      await backend[Symbol.asyncDispose]();
    }
  });
});
