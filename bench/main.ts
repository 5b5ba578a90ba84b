/**
 * What the caches are worth on this machine: `bun run bench [--only case,…] [--runs N] [--quick] [--record]`.
 * Each case checks its result before it is timed. The last line of stdout is one JSON document.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { BackendChoice } from "../src/backend/select_backend.ts";
import { createEngine } from "../src/engine/create_engine.ts";
import type { Case } from "./cases/case.ts";
import { decodeContext } from "./cases/decode_context.ts";
import { promptLookup } from "./cases/prompt_lookup.ts";
import { sessionCurve } from "./cases/session_curve.ts";
import { sessionTurns } from "./cases/session_turns.ts";
import { useCache } from "./cases/use_cache.ts";
import { writeRecord } from "./record.ts";
import { type CaseResult, describeMachine, type Environment, progress, table } from "./report.ts";

const CASES: Readonly<Record<string, Case>> = {
  use_cache: useCache,
  session_turns: sessionTurns,
  session_curve: sessionCurve,
  decode_context: decodeContext,
  prompt_lookup: promptLookup,
};

const { values: flags } = parseArgs({
  options: {
    only: { type: "string" },
    runs: { type: "string", default: "3" },
    quick: { type: "boolean", default: false },
    record: { type: "boolean", default: false },
    out: { type: "string", default: join(import.meta.dirname!, "record") },
  },
});
const names = flags.only?.split(",") ?? Object.keys(CASES);
const unknown = names.find((name) => !(name in CASES));
if (unknown) {
  console.error(`Cannot run case "${unknown}": wanted ${Object.keys(CASES).join(", ")}`);
  process.exit(1);
}

const startedAt = performance.now();
await using engine = await createEngine({
  model: process.env.MODEL || undefined,
  backend: (process.env.BACKEND || undefined) as BackendChoice | undefined,
  onProgress: (step) => progress(step),
});
const loadS = (performance.now() - startedAt) / 1000;
const machine = describeMachine();
const environment: Environment = {
  ...machine,
  model: engine.model.id,
  backend: `${engine.backend.info.name}: ${engine.backend.info.detail}`,
  variant: engine.backend.info.variant,
  threads: engine.backend.info.threads,
};
console.log(
  `${environment.model} on ${environment.backend}, ${environment.threads} threads, loaded in ${loadS.toFixed(1)} s\n` +
    `${machine.machine.cpu}, ${machine.machine.cores} cores, ${JSON.stringify(machine.versions)}`,
);

const cases: CaseResult[] = [];
for (const name of names) {
  const result = await CASES[name]!({ engine, runs: Number(flags.runs), quick: flags.quick, progress });
  progress("");
  console.log(`\n== ${result.question}\n   (${result.checked})\n\n${table(result.rows)}`);
  if (flags.record) {
    for (const path of await writeRecord(flags.out, environment, result)) console.log(`wrote ${path}`);
  }
  cases.push(result);
}
console.log(JSON.stringify({ environment, loadS, cases: cases.map(({ plot: _, ...rest }) => rest) }));
