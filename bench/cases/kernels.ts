import { join } from "node:path";
import { availableCpus } from "../../src/backend/host_resources.ts";
import type { Measured, MeasureRequest } from "../kernels/measure.ts";
import { ROWS } from "../kernels/shapes.ts";
import { LineProcess } from "../line_process.ts";
import type { MachineCase } from "./case.ts";

const FOLDER = join(import.meta.dirname!, "..", "kernels");

/** 1, 2, 4, ... and all. */
function threadCounts(most: number): number[] {
  const counts = [];
  for (let count = 1; count < most; count *= 2) counts.push(count);
  return [...counts, most];
}

/** What one number of threads reached, the best of several rounds. */
interface Best {
  threads: number;
  kernels: LineProcess;
  peer: LineProcess;
  forms: Record<MeasureRequest["weights"], Measured>;
  peerGops: number;
}

/** Products of Phi-3-mini's matrices on 1 thread to all, beside a loop that only reads and onnxruntime-web's int8. */
export const kernels: MachineCase = async ({ runs, quick, progress }) => {
  const forms = ["Int4", "Int4Affine", "Int8"] as const;
  await using processes = new AsyncDisposableStack();
  const start = (script: string, threads: number, runtime: "page" | "bun") =>
    processes.use(new LineProcess(script, join(FOLDER, script), { args: ["--threads", `${threads}`], runtime }));
  const all = threadCounts(quick ? 1 : availableCpus()).map((threads): Best => ({
    threads,
    kernels: start("measure.ts", threads, "page"),
    // Bun's in every record, so that records of both runtimes share a measure.
    peer: start("ort_int8.ts", threads, "bun"),
    forms: {} as Best["forms"],
    peerGops: 0,
  }));
  for (let round = 1; round <= (quick ? 1 : 3); round++) {
    for (const best of all) {
      for (const weights of quick ? ["Int4"] as const : forms) {
        progress(`${weights}, ${best.threads} threads, round ${round}`);
        const measured = await best.kernels.ask<Measured>({ weights, runs: quick ? 1 : 2 * runs });
        best.forms[weights] = better(best.forms[weights], measured);
      }
      progress(`onnxruntime-web, ${best.threads} threads, round ${round}`);
      best.peerGops = Math.max(best.peerGops, await best.peer.ask<number>(quick ? 1 : runs));
    }
  }
  const of = (best: Best) => best.forms.Int4.decodeGBs / best.forms.Int4.readGBs;
  const rows = all.flatMap(({ threads, forms, peerGops }) =>
    Object.entries(forms).map(([weights, { dot, readGBs, decodeGBs, gops, way }]) => ({
      threads,
      weights,
      dot,
      "read GB/s": readGBs,
      "decode GB/s": decodeGBs,
      "of read": decodeGBs / readGBs,
      ...Object.fromEntries(ROWS.map((m) => [`GOPS M=${m}`, Math.round(gops[m]!)])),
      "expanded from M=": ROWS.find((m) => way[m] === "expanded") ?? "never",
      "ort-web int8 M=64": Math.round(peerGops),
      "M=64 / ort-web": gops[64]! / peerGops,
    }))
  );
  const [first, last] = [all[0]!, all.at(-1)!];
  const speedup = (pick: (best: Best) => number) => pick(last) / pick(first);
  return {
    name: "kernels",
    question: "How fast are the products of Phi-3-mini's matrices, beside a loop that only reads the weights?",
    checked: "the kernels passed their self-test; test/wasm holds them to their scalar twins",
    rows,
    figures: {
      decodeOfRead1: of(first),
      decodeOfReadAll: of(last),
      prefillOverOrt1: first.forms.Int4.gops[64]! / first.peerGops,
      prefillOverOrtAll: last.forms.Int4.gops[64]! / last.peerGops,
      ...Object.fromEntries(
        [2, 4, 8].flatMap((m) =>
          [first, last].map((
            { threads, forms: { Int4 } },
          ) => [`rows${m}Over1On${threads}`, Int4.gops[m]! / Int4.gops[1]!])
        ),
      ),
      readSpeedup: speedup(({ forms }) => forms.Int4.readGBs),
      decodeSpeedup: speedup(({ forms }) => forms.Int4.decodeGBs),
      prefillSpeedup: speedup(({ forms }) => forms.Int4.gops[64]!),
    },
    plot: {
      title: "int4 products of Phi-3-mini's matrices",
      x: "threads",
      y: "GB/s of weights read",
      points: all.flatMap(({ threads, forms: { Int4 } }) => [
        { x: threads, y: Int4.readGBs, series: "a loop that only reads" },
        { x: threads, y: Int4.decodeGBs, series: "1 row" },
        { x: threads, y: Int4.decodeGBs * Int4.gops[64]! / Int4.gops[1]! / 64, series: "64 rows" },
      ]),
    },
  };
};

/** The better figure of each, since any may have been disturbed. */
function better(a: Measured | undefined, b: Measured): Measured {
  if (!a) return b;
  const faster = (rows: number) => a.gops[rows]! > b.gops[rows]! ? a : b;
  return {
    dot: b.dot,
    readGBs: Math.max(a.readGBs, b.readGBs),
    decodeGBs: Math.max(a.decodeGBs, b.decodeGBs),
    gops: Object.fromEntries(ROWS.map((rows) => [rows, faster(rows).gops[rows]!])),
    way: Object.fromEntries(ROWS.map((rows) => [rows, faster(rows).way[rows]!])),
  };
}
