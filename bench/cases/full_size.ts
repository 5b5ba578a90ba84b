import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskStore } from "../../models/file_store.ts";
import { type Layout, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { availableCpus } from "../../src/backend/host_resources.ts";
import type { FullSize } from "../full_size/measure.ts";
import { LineProcess } from "../line_process.ts";
import type { MachineCase } from "./case.ts";

const SCRIPT = join(import.meta.dirname!, "..", "full_size", "measure.ts");

/** As the folders are published for CPUs, for pages, and by transformers.js in f32 and f16. */
const PUBLISHED: readonly Layout[] = ["genai", "web", "xenova", "xenova-f16"];

/** Phi-3-mini of random weights in each published layout, one after the other: 2.8 GB of disk at a time. */
export const fullSize: MachineCase = async ({ quick, progress }) => {
  const threads = availableCpus();
  const folder = mkdtempSync(join(tmpdir(), "hearth-phi3-"));
  const results: (FullSize & { layout: Layout })[] = [];
  try {
    for (const layout of quick ? PUBLISHED.slice(0, 1) : PUBLISHED) {
      progress(`writing ${layout}`);
      const model = join(folder, layout);
      {
        using store = new DiskStore(model);
        writeSyntheticOnnx(store, { size: quick ? "tiny" : "phi-3-mini", seed: 0 }, layout);
      }
      progress(`measuring ${layout}`);
      const args = ["--model", model, "--threads", `${threads}`, ...(quick ? ["--quick"] : [])];
      await using process = new LineProcess("full_size", SCRIPT, { args });
      results.push({ layout, ...await process.read<FullSize>() });
      rmSync(model, { recursive: true });
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const GBs = ({ decode: { ms, bytes } }: FullSize) => bytes / ms / 1e6;
  const figures = (figure: string, of: (result: FullSize) => number) =>
    Object.fromEntries(results.map((result) => [`${result.layout} ${figure}`, of(result)]));
  return {
    name: "full_size",
    question: `How does Phi-3-mini run on ${threads} threads, in each layout that is published?`,
    checked: `all logits are finite; one token more: ${results[0]!.refusal}`,
    rows: results.map((result) => ({
      layout: result.layout,
      "load ms": result.loadMs,
      "kept MiB": Math.round(result.keptMiB),
      "peak / kept": result.peakMiB / result.keptMiB,
      "decode at 100 tok/s": 1000 / result.decode.ms,
      "decode GB/s": GBs(result),
      "read GB/s": result.readGBs,
      "of read": GBs(result) / result.readGBs,
      "longest context": result.longest.context,
      "its KV MiB": Math.round(result.longest.kvMiB),
      "decode there tok/s": 1000 / result.longest.ms,
    })),
    figures: {
      ...figures("peakOverKept", ({ peakMiB, keptMiB }) => peakMiB / keptMiB),
      ...figures("decodeOfRead", (result) => GBs(result) / result.readGBs),
    },
    plot: {
      title: "Phi-3-mini by layout",
      x: "layout",
      y: "GB/s",
      points: results.flatMap((result) => [
        { x: result.layout, y: result.readGBs, series: "a loop that only reads" },
        { x: result.layout, y: GBs(result), series: "decode at 100 tokens" },
      ]),
    },
  };
};
