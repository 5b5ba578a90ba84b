import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { HelperThreads } from "../../../src/backend/helper_threads.ts";
import { InferenceThread } from "../../../src/backend/inference_thread.ts";
import type { LoadOptions } from "../../../src/backend/simd/inference_worker.ts";
import { HEAP_BYTES } from "../../../src/backend/simd/kernels.ts";
import { startPoolThreads } from "../../../src/backend/simd/thread_pool.ts";
import { ThreadBackend, type ThreadBackendOptions } from "../../../src/backend/thread_backend.ts";
import { type TinyModel, tinyModel } from "../tiny_model.ts";

const IDS = Array.from({ length: 60 }, (_, i) => (7 * i) % 40);
const THREADS = 3;

let model: TinyModel;
before(async () => void (model = await tinyModel()));
after(async () => await model[Symbol.asyncDispose]());

/** Takes its time to end. */
class MortalHelpers extends HelperThreads {
  ends = 0;
  ended = 0;

  constructor() {
    super(new URL("./mortal_helper.ts", import.meta.url), THREADS - 1);
  }

  override async end(): Promise<void> {
    this.ends++;
    await super.end();
    await sleep(100);
    this.ended++;
  }
}

/** A backend of our engine on these helpers, one after the other. */
async function start(helpers: HelperThreads[], options: Pick<ThreadBackendOptions, "restarts" | "onCrash">) {
  const { path: modelDir, config } = model;
  const heap = { memoryBudgetBytes: HEAP_BYTES, maxHeapBytes: HEAP_BYTES };
  const load: LoadOptions = { modelDir, config, threads: THREADS, kv: "f32", activations: "int8", ...heap };
  const entry = new URL("../../../src/backend/simd/inference_worker.ts", import.meta.url);
  const traits = { name: "simd", variant: "", rowInvariant: true, kvShares: true, inspects: true } as const;
  return await ThreadBackend.start({
    config,
    start: () => InferenceThread.start(entry, load, { helpers: helpers.shift()! }),
    info: ({ threads }) => ({ ...traits, threads, reason: "", detail: "" }),
    kvBytes: () => 0,
    ...options,
  });
}

test("a helper that dies while the engine serves takes the inference thread with it, which is replaced", async () => {
  const mortal = new MortalHelpers();
  const crashes: string[] = [];
  const onCrash = ({ message }: Error) => crashes.push(message);
  await using backend = await start([mortal, startPoolThreads(THREADS)], { onCrash });
  assert.equal(backend.info.threads, THREADS);
  const [want] = await backend.forward([{ tokenIds: IDS }]);
  const dead = backend.thread;
  mortal.tell("die");
  assert.match((await dead.died).message, /the inference thread is gone, a thread .* failed, .*out of memory/);
  while (backend.failure) await sleep(10);
  assert.notEqual(backend.thread, dead);
  assert.equal(crashes.length, 1);
  const [again] = await backend.forward([{ tokenIds: IDS }]);
  assert.deepEqual(again!.logits, want!.logits);
});

test("disposing of a backend whose helper died waits for the helpers' end, and for nothing else", async () => {
  for (const threadEnded of [false, true]) {
    const mortal = new MortalHelpers();
    const backend = await start([mortal], { restarts: false });
    mortal.tell("die");
    await backend.thread.died;
    while (threadEnded && mortal.ends === 0) await sleep(5);
    // Less than what a thread is given that does not end by itself.
    const late = AbortSignal.timeout(4000);
    await backend[Symbol.asyncDispose]();
    assert.ok(!late.aborted);
    assert.ok(mortal.ends > 0);
    assert.equal(mortal.ended, mortal.ends);
  }
});
