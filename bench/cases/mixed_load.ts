import type { Engine } from "../../src/engine/engine.ts";
import { createApp } from "../../src/http/app.ts";
import { collectGarbage } from "../collect_garbage.ts";
import { LoadClient, type TtftSample } from "../load/load_client.ts";
import { percentile } from "../statistics.ts";
import { answer, type Case } from "./case.ts";

const CLIENTS = 4;
/** How long a stream can be resumed and a key is known: so short that none is left at the end. */
const KEPT_MS = 2000;

/** What memory may have grown by: an allocator's holes, not what is kept turn by turn. */
const MOST_GROWTH = 1.2;

/** What has to come back to where it was. */
interface Held {
  sessions: number;
  kvBlocks: number;
  kvBytes: number;
  outsideBytes: number;
}

/** Clients that do all that clients do, for minutes, on the whole HTTP side. */
export const mixedLoad: Case = async ({ engine, quick, minutes, progress }) => {
  const idempotency = { ttlMs: KEPT_MS };
  const app = createApp(engine, { streams: { windowMs: KEPT_MS }, idempotency });
  const lastsMs = quick ? 8000 : minutes * 60_000;
  // What the first requests allocate stays: heaps grow, code is compiled.
  await run(app.fetch, engine, Math.min(lastsMs / 2, 60_000), CLIENTS, progress);
  const before = await held(engine);
  const rssBefore = await residentMiB();
  const clients = await run(app.fetch, engine, lastsMs, 0, progress);
  const after = await held(engine);
  const rssAfter = await residentMiB();
  for (const key of Object.keys(before) as (keyof Held)[]) {
    if (after[key] !== before[key]) throw new Error(`Cannot end the load: ${key} is ${after[key]}, was ${before[key]}`);
  }
  // In a quick run conversations are still growing, and so are heaps.
  if (!quick && rssAfter > rssBefore * MOST_GROWTH) {
    throw new Error(`Cannot end the load: memory is ${rssAfter} MiB, was ${rssBefore}`);
  }

  const samples = clients.flatMap(({ samples }) => samples);
  const counts: Record<string, number> = {};
  for (const client of clients) {
    for (const [name, count] of Object.entries(client.counts)) counts[name] = (counts[name] ?? 0) + count;
  }
  const states = ["hot", "warm", "parked", "cold"].filter((state) => samples.some((sample) => sample.state === state));
  const rows = states.map((state) => ({ state, ...summary(samples.filter((sample) => sample.state === state)) }));
  const done = Object.entries(counts).map(([name, count]) => `${count} ${name}`).join(", ");
  return {
    name: "mixed_load",
    question:
      `How long until the first token, by where the KV is, while ${CLIENTS} clients do everything at once for ` +
      `${(lastsMs / 60_000).toFixed(1)} minutes?`,
    checked:
      `conversations were right to the end, hot and recomputed; sessions, KV blocks and bytes came back to what ` +
      `they were (${before.kvBlocks}, ${before.kvBytes}), memory from ${rssBefore} to ${rssAfter} MiB; ${done}`,
    rows,
    figures: {
      ...Object.fromEntries(rows.flatMap(({ state, "p50 ms": p50, "p99 ms": p99 }) => [
        [`${state}P50Ms`, p50],
        [`${state}P99Ms`, p99],
      ])),
      rssBeforeMiB: rssBefore,
      rssAfterMiB: rssAfter,
      steps: Object.values(counts).reduce((sum, count) => sum + count, 0),
    },
    plot: {
      title: "Time to first token under mixed load",
      x: "KV before the turn",
      y: "TTFT, ms",
      points: rows.flatMap(({ state, "p50 ms": p50, "p99 ms": p99 }) => [
        { x: state, y: p50, series: "p50" },
        { x: state, y: p99, series: "p99" },
      ]),
    },
  };
};

/** Runs clients for a while, checks their conversations and deletes them. @param seed of the first client */
async function run(
  fetch: ReturnType<typeof createApp>["fetch"],
  engine: Engine,
  lastsMs: number,
  seed: number,
  progress: (text: string) => void,
): Promise<LoadClient[]> {
  const startedAt = performance.now();
  const clients = Array.from({ length: CLIENTS }, (_, i) => new LoadClient(fetch, engine, seed + i));
  const report = setInterval(() => progress(`${Math.round((performance.now() - startedAt) / 1000)} s of load`), 1000);
  try {
    await Promise.all(clients.map(async (client) => {
      while (performance.now() - startedAt < lastsMs) await client.step();
    }));
  } finally {
    clearInterval(report);
  }
  for (const { id } of engine.sessions.list().filter(({ turn }) => turn > 0)) await requireRight(engine, id);
  for (const { id } of engine.sessions.list()) await engine.sessions.delete(id);
  // Streams and keys that are still known go as well.
  await new Promise((resolve) => setTimeout(resolve, KEPT_MS + 200));
  return clients;
}

/** The last answer is the same from what is cached as from the transcript alone. */
async function requireRight(engine: Engine, id: string): Promise<void> {
  const again = () =>
    answer(engine, {
      prompt: { messages: [] },
      session: { id, mode: "regenerate", onBusy: "queue" },
      maxTokens: 6,
      ignoreEos: true,
    });
  const hot = await again();
  await engine.sessions.evict(id);
  const cold = await again();
  if (hot.text !== cold.text) {
    throw new Error(`Cannot end the load: session ${id} said "${hot.text}", then "${cold.text}"`);
  }
}

async function held(engine: Engine): Promise<Held> {
  const { sessions, warmBytes, parkedBytes } = engine.sessions.stats();
  return { sessions, ...await engine.backend.stats(), outsideBytes: warmBytes + parkedBytes };
}

/** Memory of this process in MiB without its garbage: the least of some seconds. */
async function residentMiB(): Promise<number> {
  let least = Infinity;
  for (let i = 0; i < 6; i++) {
    collectGarbage();
    await new Promise((resolve) => setTimeout(resolve, 500));
    least = Math.min(least, process.memoryUsage().rss / 2 ** 20);
  }
  return Math.round(least);
}

function summary(samples: readonly TtftSample[]) {
  const ms = samples.map((sample) => sample.ms);
  return { turns: ms.length, "p50 ms": percentile(ms, 50), "p99 ms": percentile(ms, 99) };
}
