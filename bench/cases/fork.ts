import type { Engine } from "../../src/engine/engine.ts";
import { milliseconds, percentile } from "../statistics.ts";
import { answer, type Case, requireSameTokens } from "./case.ts";

const TOKENS = 1000;
/** Tokens of each answer that is compared. */
const ANSWER = 8;

/** A fork of a session of 1,000 tokens: its time, and the KV that it copies. */
export const fork: Case = async ({ engine, runs, quick, progress }) => {
  const { backend, sessions, model } = engine;
  const tokens = quick ? 200 : TOKENS;
  const ids = Array.from({ length: tokens - ANSWER }, (_, i) => (100 + i * 7919) % model.config.vocabSize);
  const parent = crypto.randomUUID();
  progress(`a session of ${tokens} tokens`);
  const { ids: reply } = await say(engine, parent, ids);
  const words = [...ids, ...reply];

  const forks: string[] = [];
  const times: number[] = [];
  const before = await backend.stats();
  for (let i = 0; i < (quick ? 3 : 20 * runs); i++) {
    progress(`fork ${i + 1}`);
    const newId = crypto.randomUUID();
    times.push(await milliseconds(() => sessions.fork(parent, { newId })));
    forks.push(newId);
    // One more is enough to see what it holds, and a backend that copies has no room for many.
    if (i > 0) await sessions.delete(forks.shift()!);
  }
  const { kvBlocks } = await backend.stats();
  const child = forks[0]!;
  const copied = kvBlocks - before.kvBlocks;
  const { cachedTokens } = sessions.describe(child);
  if (backend.info.kvShares && copied !== 0) throw new Error(`Cannot time a fork: it copied ${copied} blocks of KV`);
  if (backend.info.kvShares && cachedTokens < tokens - 1) {
    throw new Error(`Cannot time a fork: it has KV of ${cachedTokens} tokens, wanted ${tokens - 1}`);
  }

  progress("answers of the fork, the parent rewound and a fresh session");
  const next = [...words, ...ids.slice(0, 20)];
  const wanted = await say(engine, crypto.randomUUID(), next);
  requireSameTokens("a fork", (await say(engine, child, next)).ids, wanted.ids);
  await say(engine, parent, [...words, ...ids.slice(20, 40)]);
  await sessions.rewind(parent, { toTurn: 1 });
  requireSameTokens("a fork beside a rewound session", (await say(engine, parent, next)).ids, wanted.ids);
  for (const { id } of sessions.list()) await sessions.delete(id);

  const [median, slowest] = [percentile(times, 50), Math.max(...times)];
  return {
    name: "fork",
    question: `How long does a fork of a session of ${tokens} tokens take, and how much KV does it copy?`,
    checked: "the fork and the rewound parent then gave the tokens of a fresh session",
    rows: [{
      tokens,
      forks: times.length,
      "median ms": median,
      "slowest ms": slowest,
      "blocks before": before.kvBlocks,
      "blocks after": kvBlocks,
      "KV MiB of a session": backend.kvBytes(tokens) / 2 ** 20,
    }],
    figures: { tokens, medianMs: median, slowestMs: slowest, blocksCopied: copied },
    plot: {
      title: `Forks of a session of ${tokens} tokens`,
      x: "fork",
      y: "ms",
      points: times.map((ms, i) => ({ x: i + 1, y: ms, series: model.id })),
    },
  };
};

async function say(engine: Engine, id: string, ids: readonly number[]) {
  return await answer(engine, { prompt: { ids }, session: { id }, maxTokens: ANSWER, ignoreEos: true });
}
