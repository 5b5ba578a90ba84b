import { join } from "node:path";
import type { Loaded } from "../load/measure.ts";
import { LineProcess } from "../line_process.ts";
import type { MachineCase } from "./case.ts";

const SCRIPT = join(import.meta.dirname!, "..", "load", "measure.ts");

/** A process from nothing to its first token: time beside reading the same files, and memory beside what is kept. */
export const load: MachineCase = async ({ runs, quick, progress }) => {
  const measure = async (args: string[]) => {
    await using process = new LineProcess("load", SCRIPT, { args });
    return await process.read<Loaded>();
  };
  const warm: Loaded[] = [];
  const cold: Loaded[] = [];
  for (let run = 1; run <= (quick ? 1 : runs); run++) {
    progress(`start ${run} of ${runs}`);
    const first = await measure(["--cold"]);
    if (first.cold) cold.push(first);
    warm.push(await measure([]));
  }
  const rows = [cold, warm].filter((all) => all.length > 0).map(rowOf);
  const { model } = warm[0]!;
  const figures = (name: string, row: ReturnType<typeof rowOf> | undefined) =>
    row && {
      [`${name}FirstTokenMs`]: row["first token ms"],
      [`${name}LoadOverRead`]: row["load / read"],
      [`${name}PeakOverKept`]: row["peak / kept"],
      [`${name}PeakLessKeptMiB`]: row["peak MiB"] - row["kept MiB"],
    };
  return {
    name: "load",
    question: "How long from the start of a process to its first token, and how much memory does that take?",
    checked: `every start gave a token; ${model}`,
    rows,
    figures: { ...figures("cold", rows.find(({ files }) => files === "cold")), ...figures("warm", rows.at(-1)) },
    plot: {
      title: `From start to first token, ${model}`,
      x: "files",
      y: "ms",
      points: rows.flatMap((row) => [
        { x: row.files, y: row["reading the files ms"], series: "reading the files alone" },
        { x: row.files, y: row["load ms"], series: "load" },
        { x: row.files, y: row["first token ms"], series: "start to first token" },
      ]),
    },
  };
};

/** The best of several. */
function rowOf(all: readonly Loaded[]) {
  const least = (key: Exclude<keyof Loaded, "model" | "cold">) => Math.min(...all.map((loaded) => loaded[key]));
  return {
    files: all[0]!.cold ? "cold" : "warm",
    "runtime ms": least("startMs"),
    "load ms": least("loadMs"),
    "first token ms": least("firstTokenMs"),
    "reading the files ms": least("readMs"),
    "load / read": least("loadMs") / least("readMs"),
    "files MiB": Math.round(least("fileMiB")),
    "kept MiB": Math.round(least("keptMiB")),
    "peak MiB": Math.round(least("peakMiB")),
    "before MiB": Math.round(least("beforeMiB")),
    "peak / kept": least("peakMiB") / least("keptMiB"),
  };
}
