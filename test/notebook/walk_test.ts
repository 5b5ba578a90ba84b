import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { DiskStore } from "../../models/file_store.ts";
import { PHI3_SHAPES } from "../../models/phi3_shape.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createEngine } from "../../src/engine/create_engine.ts";
import type { Engine } from "../../src/engine/engine.ts";
import { timeKvCache } from "../../src/notebook/walk.ts";
import { walkSteps } from "./walk_steps.ts";

const shape = PHI3_SHAPES.tiny;
let folder: string;
let engine: Engine;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "hearth-walk-"));
  using store = new DiskStore(folder);
  writeSyntheticOnnx(store, { size: "tiny", seed: 1 }, "genai");
  engine = await createEngine({ model: folder });
});
after(async () => {
  await engine[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

describe("the notebook walk on a tiny Phi-3", () => {
  for (const [name, step] of Object.entries(walkSteps({ tokens: 20, repeats: 1 }))) {
    test(name, async () => {
      await step(engine, shape);
    });
  }

  test("(e) has fewer tokens where they would take too long, and says so", async () => {
    const lines: string[] = [];
    const { tokens } = await timeKvCache(engine, (line) => lines.push(line), { tokens: 20, repeats: 1, budgetMs: 0 });
    assert.equal(tokens, 10);
    assert.ok(lines.some((line) => /takes .* s or more: runs of 10 tokens, not of 20$/.test(line)), lines.join("\n"));
  });
});
