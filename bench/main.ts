/**
 * What the caches are worth on this machine and how fast the engine is:
 * `bun run bench [--only case,…] [--runs N] [--minutes N] [--quick] [--record]`; the environment as for the server.
 * Each case checks its result before it is timed. The last line of stdout is one JSON document.
 */
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { availableCpus } from "../src/backend/host_resources.ts";
import { createEngine } from "../src/engine/create_engine.ts";
import type { Engine } from "../src/engine/engine.ts";
import { parseEnvironment } from "../src/runtime/options.ts";
import { backends } from "./cases/backends.ts";
import { batchRows } from "./cases/batch_rows.ts";
import type { Case, MachineCase } from "./cases/case.ts";
import { contextCurve } from "./cases/context_curve.ts";
import { decodeContext } from "./cases/decode_context.ts";
import { fork } from "./cases/fork.ts";
import { fullSize } from "./cases/full_size.ts";
import { kernels } from "./cases/kernels.ts";
import { load } from "./cases/load.ts";
import { mixedLoad } from "./cases/mixed_load.ts";
import { parkRestore } from "./cases/park_restore.ts";
import { promptLookup } from "./cases/prompt_lookup.ts";
import { sessionCurve } from "./cases/session_curve.ts";
import { sessionTurns } from "./cases/session_turns.ts";
import { streams } from "./cases/streams.ts";
import { useCache } from "./cases/use_cache.ts";
import { writeRecord } from "./record.ts";
import { type CaseResult, describeMachine, type Environment, progress, table } from "./report.ts";

const CASES: Readonly<Record<string, Case>> = {
  use_cache: useCache,
  session_turns: sessionTurns,
  session_curve: sessionCurve,
  decode_context: decodeContext,
  prompt_lookup: promptLookup,
  batch_rows: batchRows,
  context_curve: contextCurve,
  fork,
  park_restore: parkRestore,
  streams,
  mixed_load: mixedLoad,
};

const MACHINE_CASES: Readonly<Record<string, MachineCase>> = { kernels, load, backends, full_size: fullSize };

const { values: flags } = parseArgs({
  options: {
    only: { type: "string" },
    runs: { type: "string", default: "3" },
    minutes: { type: "string", default: "1" },
    quick: { type: "boolean", default: false },
    record: { type: "boolean", default: false },
    out: { type: "string", default: join(import.meta.dirname!, "record") },
  },
});
const known = [...Object.keys(CASES), ...Object.keys(MACHINE_CASES)];
// 2.8 GB of disk and many minutes are not for everybody.
const names = flags.only?.split(",") ?? known.filter((name) => name !== "full_size");
const unknown = names.find((name) => !known.includes(name));
if (unknown) {
  console.error(`Cannot run case "${unknown}": wanted ${known.join(", ")}`);
  process.exit(1);
}

const context = { runs: Number(flags.runs), minutes: Number(flags.minutes), quick: flags.quick, progress };
const cases: CaseResult[] = [];
const machine = describeMachine();
console.log(`${machine.machine.cpu}, ${machine.machine.cores} cores, ${JSON.stringify(machine.versions)}`);

let loadS: number | undefined;
let environment: Environment = {
  ...machine,
  model: "none",
  backend: "simd: kernels alone",
  variant: "",
  threads: availableCpus(),
};
// Before an engine takes memory and cores.
for (const name of names) if (name in MACHINE_CASES) await finish(await MACHINE_CASES[name]!(context));
if (names.some((name) => name in CASES)) {
  const startedAt = performance.now();
  await using engine = await createEngine({
    ...parseEnvironment(process.env),
    onProgress: (step) => progress(step),
  });
  loadS = (performance.now() - startedAt) / 1000;
  environment = describe(engine);
  progress("");
  console.log(
    `${environment.model} on ${environment.backend}, ${environment.threads} threads, loaded in ${loadS.toFixed(1)} s`,
  );
  for (const name of names) if (name in CASES) await finish(await CASES[name]!({ ...context, engine }));
}
console.log(JSON.stringify({ environment, loadS, cases: cases.map(({ plot: _, ...rest }) => rest) }));

function describe({ model, backend: { info } }: Engine): Environment {
  const { name, detail, variant, threads } = info;
  return { ...machine, model: model.id, backend: `${name}: ${detail}`, variant, threads };
}

async function finish(result: CaseResult): Promise<void> {
  progress("");
  console.log(`\n== ${result.question}\n   (${result.checked})\n\n${table(result.rows)}`);
  cases.push(result);
  if (!flags.record) return;
  // Another model's records stand beside the bundled one's.
  const name = process.env.MODEL ? `${result.name}-${basename(process.env.MODEL)}` : result.name;
  for (const path of await writeRecord(flags.out, environment, { ...result, name })) console.log(`wrote ${path}`);
}
