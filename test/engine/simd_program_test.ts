import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { Engine } from "../../src/engine/engine.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { tinyModel } from "../backend/tiny_model.ts";
import { command, ProgramRun } from "./session_program.ts";
import { SimdHost } from "./simd_program.ts";

/** A model to run programs on in place of a tiny one: a folder under `models/`, or a path. */
const { PROGRAM_MODEL } = process.env;
/** For each kind of KV. */
const PROGRAMS = Math.ceil(Number(process.env.PROGRAMS ?? 1000) / (PROGRAM_MODEL ? 100 : 2));

for (const kv of ["f32", "int8"] as const) {
  test(`random programs on simd, ${kv} KV, give the bits of cache-free runs and leak no block`, async () => {
    await using tiny = PROGRAM_MODEL ? undefined : await tinyModel(1024);
    const model = await readModelFolder(tiny?.path ?? await resolveModelPath(PROGRAM_MODEL));
    await using host = await SimdHost.start(model, kv);
    const { backend } = host;
    host.mostCrashes = 5 + PROGRAMS / 50;
    let [turns, fromPublic] = [0, 0];
    await fc.assert(
      fc.asyncProperty(
        fc.array(command, { maxLength: 30, size: "max" }),
        fc.record({
          prefillChunk: fc.integer({ min: 1, max: 40 }),
          promptLookup: fc.constantFrom("auto" as const, "always" as const),
          hotTokens: fc.constantFrom(112, 160, 400),
          warmTokens: fc.constantFrom(0, 112, 320),
        }),
        async (program, { prefillChunk, promptLookup, hotTokens, warmTokens }) => {
          host.reset();
          const engine = new Engine(model, backend, {
            prefillChunk,
            promptLookup,
            kvBudgetBytes: backend.kvBytes(hotTokens),
            warmBudgetBytes: backend.kvBytes(warmTokens),
            sessionKey: "a secret that is hard to guess",
            parking: { pays: (tokens) => tokens % 5 > 0 },
          });
          await engine.publishPrompts([{ ids: host.publicIds }]);
          const run = new ProgramRun(engine, host);
          try {
            for (const command of program) {
              await run.run(command);
              // Whoever was just given a cache may take it.
              await setImmediate();
              const { hotBytes, warmBytes } = engine.sessions.stats();
              assert.equal(hotBytes, host.heldBytes, "no cache but a session's, and none that is not counted");
              assert.ok(hotBytes <= backend.kvBytes(hotTokens), `${hotBytes} bytes hot`);
              assert.ok(warmBytes <= backend.kvBytes(warmTokens), `${warmBytes} bytes warm`);
            }
            await run.settle();
            assert.equal(engine.sessions.stats().hotBytes, host.heldBytes);
            // What forks share is counted in each, and there once.
            assert.ok((await backend.stats()).kvBytes <= engine.sessions.stats().hotBytes);
            await run.deleteAll();
            await engine.publishPrompts([]);
            assert.deepEqual(await backend.stats(), { kvBlocks: 0, kvBytes: 0 });
            const { hotBytes, warmBytes } = engine.sessions.stats();
            assert.deepEqual({ hotBytes, warmBytes }, { hotBytes: 0, warmBytes: 0 });
          } catch (error) {
            // The smaller programs that are tried next begin with an empty engine, and crash as this one did.
            host.mostCrashes = Infinity;
            await run.idle();
            await host.lose();
            throw error;
          }
          turns += run.turns;
          fromPublic += run.fromPublic;
        },
      ),
      { numRuns: PROGRAMS },
    );
    assert.ok(fromPublic > 0 || PROGRAMS < 50);
    console.log(
      `${PROGRAMS} programs on ${model.id}, ${kv} KV: ${turns} turns, ${fromPublic} from the public prefix, ${host.crashes} crashes, ` +
        `${host.compared} positions with equal bits`,
    );
  });
}
