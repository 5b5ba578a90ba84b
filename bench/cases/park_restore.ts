import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import { modelIdentity } from "../../src/model/model_folder.ts";
import { SessionFiles } from "../../src/session/session_files.ts";
import { milliseconds, percentile } from "../statistics.ts";
import { type Answer, answer, type Case, requireSameTokens } from "./case.ts";

const TOKENS = 1000;
const BUDGET = 2 ** 30;

/** Milliseconds, medians of the rounds. */
interface Measured {
  park: number;
  restore: number;
  recompute: number;
  /** Shared tokens from which on `plan` takes what is parked. */
  breakEven: number;
  /** What `plan` said the first token takes after a restore, and what it took. */
  predicted: number;
  ttft: number;
}

/** KV of 1,000 tokens out of the backend and back, to memory and to disk, against evaluating the tokens. */
export const parkRestore: Case = async ({ engine, runs, quick, progress }) => {
  const { model, backend } = engine;
  const tokens = quick ? 200 : TOKENS;
  const rounds = quick ? 2 : 3 * runs;
  const folder = await mkdtemp(join(tmpdir(), "hearth-park-"));
  try {
    const storage = await SessionFiles.open(folder, modelIdentity(model), backend.info.variant);
    const tiers = {
      memory: { warmBudgetBytes: BUDGET },
      disk: { storage, parkedBudgetBytes: BUDGET },
    };
    const rows = [];
    const figures: Record<string, number> = { tokens, megabytes: backend.kvBytes(tokens) / 1e6 };
    for (const [to, options] of Object.entries(tiers)) {
      const measured = await measure(engine, options, {
        tokens,
        rounds,
        progress: (text) => progress(`${to}: ${text}`),
      });
      const { park, restore, recompute, breakEven, predicted, ttft } = measured;
      rows.push({
        to,
        "park ms": park,
        "restore ms": restore,
        "evaluate ms": recompute,
        "evaluate / restore": recompute / restore,
        "evaluate / both": recompute / (park + restore),
        "break-even of plan, tokens": breakEven,
        "as measured here": tokens * restore / recompute,
        "TTFT planned ms": predicted,
        "TTFT ms": ttft,
      });
      figures[`${to}ParkMs`] = park;
      figures[`${to}RestoreMs`] = restore;
      figures[`${to}EvaluateMs`] = recompute;
      figures[`${to}OverRestore`] = recompute / restore;
      figures[`${to}OverBoth`] = recompute / (park + restore);
      figures[`${to}BreakEvenTokens`] = breakEven;
      figures[`${to}PlannedOverTtft`] = predicted / ttft;
    }
    return {
      name: "park_restore",
      question: `How long do parking and restoring the KV of ${tokens} tokens take, and evaluating them?`,
      checked:
        "each turn after a restore gave the tokens of the same turn evaluated anew, and used all that was parked",
      rows,
      figures,
      plot: {
        title: `KV of ${tokens} tokens, ${(backend.kvBytes(tokens) / 2 ** 20).toFixed(0)} MiB`,
        x: "what",
        y: "ms",
        points: rows.flatMap((row) =>
          (["park ms", "restore ms", "evaluate ms"] as const).map((what) => ({
            x: what.replace(" ms", ""),
            y: row[what],
            series: row.to,
          }))
        ),
      },
    };
  } finally {
    await rm(folder, { recursive: true });
  }
};

/** The same backend under an engine that parks in one place only, and has measured nothing yet. */
async function measure(
  { model, backend }: Engine,
  options: Partial<EngineOptions>,
  { tokens, rounds, progress }: { tokens: number; rounds: number; progress(text: string): void },
): Promise<Measured> {
  // Not disposed: the backend is not its own.
  const engine = new Engine(model, backend, { kvBudgetBytes: BUDGET, ...options });
  const { sessions } = engine;
  const session = { id: crypto.randomUUID() };
  const ids = Array.from({ length: tokens }, (_, i) => (100 + i * 7919) % model.config.vocabSize);
  const turn = (prompt: readonly number[]) =>
    answer(engine, { prompt: { ids: prompt }, session, maxTokens: 1, ignoreEos: true });
  const say = async (): Promise<Answer> => {
    const said = await turn([...ids, ids[0]!]);
    // What the turn added goes again: each round parks the same.
    await sessions.rewind(session.id, { toTurn: 1 });
    return said;
  };
  const times = { park: [] as number[], restore: [] as number[], recompute: [] as number[] };
  const [predicted, ttft]: number[][] = [[], []];
  await turn(ids);
  for (let round = 0; round <= rounds; round++) {
    progress(`round ${round} of ${rounds}`);
    await sessions.evict(session.id);
    const evaluated = await say();
    const park = await milliseconds(() => sessions.park(session.id));
    const parked = sessions.describe(session.id);
    if (parked.cachedTokens < tokens) throw new Error(`Cannot time parking: ${parked.cachedTokens} tokens are parked`);
    const plan = await sessions.plan({ prompt: { ids: [...ids, ids[0]!] }, session, maxTokens: 1 });
    const restored = await say();
    requireSameTokens("a restore", restored.ids, evaluated.ids);
    if (restored.usage.cachedTokens < tokens) {
      throw new Error(`Cannot time a restore: ${restored.usage.cachedTokens} tokens came back`);
    }
    // The first round finds out what it costs.
    if (round === 0) continue;
    times.park.push(park);
    times.restore.push(restored.timings.restoreMs);
    times.recompute.push(evaluated.timings.prefillMs);
    predicted!.push(plan.predictedTtftMs!);
    ttft!.push(restored.timings.ttftMs);
  }
  await sessions.park(session.id);
  // The first prefix that plan would rather restore than evaluate, and each longer one.
  let breakEven = 1;
  while (breakEven < tokens && await takes(engine, session, ids.slice(0, breakEven)) < breakEven) breakEven++;
  await sessions.delete(session.id);
  const median = (values: readonly number[]) => percentile(values, 50);
  return {
    park: median(times.park),
    restore: median(times.restore),
    recompute: median(times.recompute),
    breakEven,
    predicted: median(predicted!),
    ttft: median(ttft!),
  };
}

/** Tokens of a shared prefix that a turn would take from what is parked. */
async function takes({ sessions }: Engine, session: { id: string }, prefix: readonly number[]): Promise<number> {
  return (await sessions.plan({ prompt: { ids: [...prefix, 1] }, session, maxTokens: 1 })).reusedTokens;
}
