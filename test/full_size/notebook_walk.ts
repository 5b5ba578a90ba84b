/**
 * The notebook walk on a Phi-3-mini of seeded random weights at full size, each step with Phi-3's shapes:
 * `notebook_walk.ts [--model folder]`. Without a folder the model is written to a temporary one first, and not at all
 * where disk or memory have no room for it. Ends in `N passed, N failed`.
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { DiskStore } from "../../models/file_store.ts";
import { PHI3_SHAPES } from "../../models/phi3_shape.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { availableMemoryBytes } from "../../src/backend/host_resources.ts";
import { createEngine } from "../../src/engine/create_engine.ts";
import { freeDiskBytes } from "../../src/hub/free_disk.ts";
import { formatBytes } from "../../src/hub/transfer_meter.ts";
import { walkSteps } from "../notebook/walk_steps.ts";
import { Report } from "../parity/report.ts";

/** Of the model's files. */
const DISK_BYTES = 2.8e9;
/** Of the weights, 2.31e9, an answer's KV, a pass and two runtimes' threads. */
const MEMORY_BYTES = 4e9;
const SIZE = "phi-3-mini";

/** Of the weights as they are kept: less than twice, so that they are there once, beside a runtime and a pass. */
const PEAK = 1.5;

const { values: flags } = parseArgs({ options: { model: { type: "string" } } });
const report = new Report();

async function walk(model: string): Promise<void> {
  const startedAt = performance.now();
  await using engine = await createEngine({ model });
  const { name, detail, threads } = engine.backend.info;
  const seconds = () => ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`${name}, ${threads} threads, ${detail}; loaded in ${seconds()} s`);
  const steps = walkSteps({ tokens: 20, repeats: 1 }, ({ withCache, withoutCache }) => {
    assert.ok(withoutCache.meanMs > 2 * withCache.meanMs, "the cache has to pay");
  });
  for (const [name, step] of Object.entries(steps)) {
    await report.attempt(name, async () => report.check(name, true, await step(engine, PHI3_SHAPES[SIZE])));
  }
  const kept = Number(/packed in (\d+) MiB/.exec(detail)?.[1]);
  const peak = Math.round(process.resourceUsage().maxRSS / 1024);
  report.check("the weights are in memory once", peak < PEAK * kept, `peak of ${peak} MiB, ${kept} MiB are kept`);
}

/** Why the model cannot be made here; `undefined` where it can. */
async function lacking(folder: string): Promise<string | undefined> {
  const lacks = (what: string, bytes: number, free: number) =>
    free < bytes ? `${what}: ${formatBytes(free)} are free, wanted ${formatBytes(bytes)}` : undefined;
  return lacks(`disk at ${folder}`, DISK_BYTES, await freeDiskBytes(folder)) ??
    lacks("memory", MEMORY_BYTES, availableMemoryBytes());
}

if (flags.model !== undefined) await walk(flags.model);
else {
  const folder = mkdtempSync(join(tmpdir(), "hearth-phi3-"));
  try {
    const why = await lacking(folder);
    if (why === undefined) {
      {
        using store = new DiskStore(folder);
        writeSyntheticOnnx(store, { size: SIZE, seed: 0 }, "genai");
      }
      await walk(folder);
    } else console.log(`skipped, no room for the model: ${why}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
report.end();
