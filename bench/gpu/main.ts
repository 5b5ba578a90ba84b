/**
 * What a GPU gives, one configuration of `ort-webgpu` after another, each on a session of its own:
 *
 *   (bun | deno run -A) bench/gpu/main.ts --model folder [--layout web] [--reference file] [--out file] [--only name;…]
 *                                         [--seconds N] [--quick]
 *   … --model folder --make-reference file      greedy ids of `simd` with f32 activations, to compare by; needs no GPU
 *
 * With `--layout` a folder that is not there is written first: the full-size synthetic Phi-3 as it is published so.
 * Each result is printed as it comes, a line of JSON; `--out` gets all of them. Ids are compared first, then timed. No
 * configuration is begun after `--seconds`.
 */
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { DiskStore } from "../../models/file_store.ts";
import { type Layout, LAYOUTS, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createOrtWebgpuBackend, type OrtWebgpuOptions } from "../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { onnxFile } from "../../src/model/onnx_file.ts";
import { readFiles } from "../load/read_files.ts";
import { describeMachine } from "../report.ts";
import { measure, type MeasureOptions } from "./measure.ts";
import { type Agreement, compare, makeReference, promptIds, PROMPTS, type Reference } from "./reference.ts";

const { values: flags } = parseArgs({
  options: {
    model: { type: "string" },
    reference: { type: "string" },
    "make-reference": { type: "string" },
    layout: { type: "string" },
    out: { type: "string" },
    only: { type: "string" },
    seconds: { type: "string", default: "3600" },
    quick: { type: "boolean", default: false },
  },
});
if (!flags.model) {
  console.error("Cannot measure: no model came, wanted --model folder");
  process.exit(1);
}

if (flags.layout && !existsSync(flags.model)) {
  if (!Object.hasOwn(LAYOUTS, flags.layout)) {
    console.error(`Cannot measure: layout ${flags.layout}, wanted ${Object.keys(LAYOUTS).join(" or ")}`);
    process.exit(1);
  }
  // Its name comes last: a folder that is there is whole.
  using store = new DiskStore(`${flags.model}.part`);
  writeSyntheticOnnx(store, { size: "phi-3-mini", seed: 0 }, flags.layout as Layout);
  renameSync(`${flags.model}.part`, flags.model);
}

type Configuration = Pick<OrtWebgpuOptions, "precision" | "activations" | "capture" | "unsafe"> & {
  aheads?: readonly number[];
  contexts?: readonly number[];
};

/** What is documented, at its best, comes first. */
const DENO: Readonly<Record<string, Configuration>> = {
  "f16": { precision: "f16", aheads: [0, 8, 4, 3, 2, 1, 16] },
  "f16, read at once": { precision: "f16", unsafe: { read: true }, aheads: [0, 1, 2, 4] },
  "f32": { precision: "f32", aheads: [0, 4] },
  "f16, not captured": { precision: "f16", capture: false, aheads: [0, 4], contexts: [100] },
};
const BUN: Readonly<Record<string, Configuration>> = {
  "f16": { precision: "f16", aheads: [0, 1, 2, 4, 8] },
  "f16, no validation": { precision: "f16", unsafe: { unvalidated: true }, aheads: [0, 1, 2, 4, 8] },
  "f16, f32 activations": { precision: "f16", activations: "f32", aheads: [2] },
  "f32": { precision: "f32", aheads: [0, 2] },
  "f32, int8 activations": { precision: "f32", activations: "int8", aheads: [2], contexts: [100] },
  "f16, not captured": { precision: "f16", capture: false, aheads: [0, 2], contexts: [100] },
};

const model = await readModelFolder(flags.model);
const { config } = model;
const { vocabSize, contextLength } = config;
if (flags["make-reference"]) {
  const threads = availableParallelism();
  await using simd = await createSimdBackend({ modelDir: model.path, config, activations: "f32", threads });
  const references: Reference[] = [];
  for (const tokens of PROMPTS.filter((count) => count + 40 < contextLength)) {
    references.push(await makeReference(simd, promptIds(tokens, vocabSize), flags.quick ? 8 : 40));
  }
  writeFileSync(flags["make-reference"], JSON.stringify(references));
  process.exit(0);
}

const references: Reference[] = flags.reference ? JSON.parse(readFileSync(flags.reference, "utf8")) : [];
const configurations = process.versions.bun ? BUN : DENO;
const only = flags.only?.split(";");
const results: object[] = [];
const startedAt = performance.now();
const report = (result: object) => {
  results.push(result);
  console.log(JSON.stringify(result));
  if (flags.out) writeFileSync(flags.out, JSON.stringify({ ...describeMachine(), model: model.id, results }, null, 2));
};

for (const [name, { aheads = [0], contexts = [100, 1900, 3000], ...options }] of Object.entries(configurations)) {
  if (only && !only.includes(name)) continue;
  if ((performance.now() - startedAt) / 1000 > Number(flags.seconds)) break;
  const passes: MeasureOptions = {
    vocabSize,
    prefills: flags.quick
      ? [{ tokens: 64, chunk: 64 }]
      : [{ tokens: 64, chunk: 64 }, { tokens: 512, chunk: 512 }, { tokens: 512, chunk: 128 }],
    contexts: contexts.filter((context) => context + 200 < contextLength),
    aheads,
    decodeTokens: flags.quick ? 16 : 128,
    repeats: flags.quick ? 1 : 3,
  };
  try {
    const loadAt = performance.now();
    await using backend = await createOrtWebgpuBackend({ modelDir: model.path, config, ahead: 16, ...options });
    const loadS = (performance.now() - loadAt) / 1000;
    const readS = readFiles(dirname(onnxFile(model.path))).ms / 1000;
    const agreements: Agreement[] = [];
    for (const reference of references) agreements.push(await compare(backend, reference, vocabSize, 512));
    const speeds = await measure(backend, passes);
    report({ name, device: backend.info.device, detail: backend.info.detail, loadS, readS, agreements, ...speeds });
  } catch (error) {
    report({ name, error: String(error) });
  }
}
process.exit(0);
