import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { SessionBusyError, TurnSupersededError } from "../../src/errors.ts";
import { durableEngine } from "../fakes/durable_engine.ts";
import { FAKE_BYTES_PER_TOKEN, type FakeBackend } from "../fakes/fake_backend.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { command, PASS_FAILED, type ProgramHost, ProgramRun } from "./session_program.ts";

const PROGRAMS = Number(process.env.PROGRAMS ?? 1000);
const VOCAB = 50;
const PUBLIC = Array.from({ length: 20 }, (_, i) => (i * 7) % VOCAB);

/** Tokens of a greedy run from nothing. */
function oracle(backend: FakeBackend, prompt: readonly number[], count: number): number[] {
  const ids = [...prompt];
  for (let n = 0; n < count; n++) ids.push(backend.next(ids));
  return ids.slice(prompt.length);
}

/** Programs on a model without weights. */
const fakeHost = (backend: FakeBackend): ProgramHost => ({
  vocabSize: VOCAB,
  publicIds: PUBLIC,
  checkAnswer(prompt, answer) {
    assert.deepEqual(answer.map(({ id }) => id), oracle(backend, prompt, answer.length));
  },
  failNext() {
    backend.failNext = new Error(PASS_FAILED);
  },
  fill(times) {
    backend.refuseNext = times;
  },
  crash() {
    for (const cache of backend.caches) cache.lost = true;
  },
});

test("random programs give the tokens of cache-free runs, keep every word, and leak nothing", async () => {
  let turns = 0;
  let fromPublic = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.array(command, { maxLength: 30, size: "max" }),
      fc.record({
        prefillChunk: fc.integer({ min: 1, max: 9 }),
        promptLookup: fc.constantFrom("auto" as const, "always" as const),
        hotTokens: fc.constantFrom(100, 150, 400),
        warmTokens: fc.constantFrom(0, 100, 300),
        kvShares: fc.boolean(),
        follows: fc.constantFrom(0, 3),
      }),
      async (program, { prefillChunk, promptLookup, hotTokens, warmTokens, kvShares, follows }) => {
        const { engine, backend } = fakeEngine({
          vocabSize: VOCAB,
          prefillChunk,
          promptLookup,
          // Of all tokens, so that one wrong cached token changes everything; or a text that repeats itself.
          next: promptLookup === "always" ? (ids) => (ids.at(-1)! * 7 + Number(ids.length % 9 === 0)) % 13 : undefined,
          kvBudgetBytes: hotTokens * FAKE_BYTES_PER_TOKEN,
          warmBudgetBytes: warmTokens * FAKE_BYTES_PER_TOKEN,
          sessionKey: "a secret that is hard to guess",
          parking: { pays: (tokens) => tokens % 5 > 0 },
        });
        backend.info.kvShares = kvShares;
        backend.follows = follows;
        await engine.publishPrompts([{ ids: PUBLIC }]);
        const run = new ProgramRun(engine, fakeHost(backend));
        for (const command of program) {
          await run.run(command);
          const { hotBytes, warmBytes } = engine.sessions.stats();
          assert.ok(hotBytes <= hotTokens * FAKE_BYTES_PER_TOKEN, `${hotBytes} bytes hot`);
          assert.ok(warmBytes <= warmTokens * FAKE_BYTES_PER_TOKEN, `${warmBytes} bytes warm`);
        }
        await run.settle();
        // Counts are exact once nothing runs.
        const held = [...backend.caches].reduce((bytes, cache) => bytes + cache.bytes, 0);
        assert.equal(engine.sessions.stats().hotBytes, held);
        await engine[Symbol.asyncDispose]();
        assert.equal(backend.caches.size, 0);
        assert.equal(engine.sessions.stats().warmBytes, 0);
        turns += run.turns;
        fromPublic += run.fromPublic;
      },
    ),
    { numRuns: PROGRAMS },
  );
  assert.ok(fromPublic > 0 || PROGRAMS < 50);
  console.log(`${PROGRAMS} programs, ${turns} turns, ${fromPublic} of them began with the public prefix`);
});

test("random programs on disk: every restart finds what was acknowledged", async () => {
  const programs = Math.ceil(PROGRAMS / 20);
  const folder = await mkdtemp(join(tmpdir(), "hearth-programs-"));
  let restarts = 0;
  const start = (dataDir: string) =>
    durableEngine(dataDir, {
      kvBudgetBytes: 100 * FAKE_BYTES_PER_TOKEN,
      warmBudgetBytes: 60 * FAKE_BYTES_PER_TOKEN,
      parkedBudgetBytes: 200 * FAKE_BYTES_PER_TOKEN,
      sessionKey: "a secret that is hard to guess",
      parking: { pays: (tokens) => tokens % 5 > 0 },
    });
  try {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ command, restart: fc.constantFrom("no", "no", "no", "clean", "crash") }), {
          maxLength: 15,
          size: "max",
        }),
        async (program) => {
          const dataDir = await mkdtemp(join(folder, "p"));
          let { engine, backend, files } = await start(dataDir);
          const run = new ProgramRun(engine, fakeHost(backend));
          for (const { command, restart } of program) {
            await run.run(command);
            const { parkedBytes } = engine.sessions.stats();
            assert.ok(parkedBytes <= 200 * FAKE_BYTES_PER_TOKEN, `${parkedBytes} bytes parked`);
            if (restart === "no") continue;
            await run.settle();
            if (restart === "clean") await engine[Symbol.asyncDispose]();
            ({ engine, backend, files } = await start(dataDir));
            assert.deepEqual([files.recovered.cut, files.recovered.unreadable], [0, []]);
            Object.assign(run, { engine, host: fakeHost(backend) });
            await run.settle();
            restarts++;
          }
          await run.settle();
          await engine[Symbol.asyncDispose]();
          assert.equal(backend.caches.size, 0);
        },
      ),
      { numRuns: programs },
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  console.log(`${programs} programs on disk, ${restarts} restarts`);
});

test("turns that come at once: the acknowledged ones are the transcript, in order, each as a cache-free run", async () => {
  const programs = Math.ceil(PROGRAMS / 5);
  const turn = fc.record({
    ids: fc.array(fc.nat(VOCAB - 1), { minLength: 1, maxLength: 5 }),
    maxTokens: fc.nat(5),
    onBusy: fc.constantFrom("reject" as const, "queue" as const, "supersede" as const),
    cancelAfter: fc.option(fc.nat(4), { nil: undefined }),
    waitFirst: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(turn, { maxLength: 12, size: "max" }), async (turns) => {
      const { engine, backend } = fakeEngine({ vocabSize: VOCAB });
      await engine.sessions.create({ id: "s" });
      const acknowledged: { turn: number; ids: number[]; reply: number[] }[] = [];
      await Promise.all(turns.map(async ({ ids, maxTokens, onBusy, cancelAfter, waitFirst }, i) => {
        for (let n = 0; waitFirst && n < i; n++) await new Promise((resolve) => setImmediate(resolve));
        const reply: number[] = [];
        try {
          const session = { id: "s", mode: "append" as const, onBusy };
          const generation = await engine.start({ prompt: { ids }, maxTokens, ignoreEos: true, session });
          let events = 0;
          for await (const event of generation) {
            if (event.type === "token") reply.push(event.id);
            else if (event.type === "end") acknowledged.push({ turn: event.usage.cache.turn, ids, reply });
            if (++events === cancelAfter) generation.cancel();
          }
        } catch (error) {
          const isExpected = error instanceof SessionBusyError || error instanceof TurnSupersededError ||
            (error as Error).name === "AbortError";
          assert.ok(isExpected, error as Error);
        }
      }));
      acknowledged.sort((a, b) => a.turn - b.turn);
      const transcript: number[] = [];
      acknowledged.forEach(({ turn, ids, reply }, i) => {
        assert.equal(turn, i + 1);
        transcript.push(...ids);
        assert.deepEqual(reply, oracle(backend, transcript, reply.length));
        transcript.push(...reply);
      });
      assert.deepEqual(engine.sessions.inspect("s").ids, transcript);
      await engine[Symbol.asyncDispose]();
      assert.equal(backend.caches.size, 0);
    }),
    { numRuns: programs },
  );
  console.log(`${programs} programs of concurrent turns`);
});
