import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach } from "node:test";
import type { durableEngine } from "../fakes/durable_engine.ts";
import { collect } from "../fakes/fake_engine.ts";

/** A folder of sessions, a new one for each test of a file that calls {@linkcode useDataDir}. */
export let dataDir: string;

export function useDataDir(): void {
  const folders: string[] = [];
  beforeEach(async () => {
    dataDir = join(await mkdtemp(join(tmpdir(), "hearth-sessions-")), "data");
    folders.push(dataDir);
  });
  after(async () => {
    for (const folder of folders) await rm(join(folder, ".."), { recursive: true, force: true });
  });
}

export type Started = Awaited<ReturnType<typeof durableEngine>>;

/** One turn of session `s` that adds these ids. @returns the answer's ids */
export async function append({ engine }: Started, ids: number[], maxTokens = 4): Promise<number[]> {
  const { turn } = engine.sessions.list().find(({ id }) => id === "s") ?? { turn: 0 };
  const session = { id: "s", mode: "append" as const, ifTurn: turn };
  return (await collect(engine.generate({ prompt: { ids }, maxTokens, ignoreEos: true, session }))).ids;
}

/** Paths of the session files that end so. */
export async function filesEnding(end: string): Promise<string[]> {
  const names = await readdir(dataDir, { recursive: true });
  return names.filter((name) => name.endsWith(end)).map((name) => join(dataDir, name));
}
