import assert from "node:assert/strict";
import { test } from "node:test";
import { createSimdBackend } from "../../../src/backend/simd/simd_backend.ts";
import type { ThreadBackend } from "../../../src/backend/thread_backend.ts";
import { BackendUnavailableError } from "../../../src/errors.ts";
import { tinyModel } from "../tiny_model.ts";

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

test("a thread that dies before its first pass is not started for ever", async () => {
  await using model = await tinyModel();
  const crashes: string[] = [];
  await using backend = await createSimdBackend({
    modelDir: model.path,
    config: model.config,
    onCrash: ({ message }) => crashes.push(message),
  }) as ThreadBackend;
  await assert.rejects(backend.thread.run([POISON]));
  await backend.thread.died;
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(backend.failure);
  assert.equal(crashes.length, 1);
});
