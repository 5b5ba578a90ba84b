import { availableParallelism, cpus, totalmem } from "node:os";
import type { Plot } from "./plot.ts";

/** A row of a table: column title to value. Numbers are rounded to `digits` when printed. */
export type Row = Record<string, string | number>;

/** What one case measured. */
export interface CaseResult {
  name: string;
  /** What the plot answers, in one sentence. */
  question: string;
  /** How the result was checked before anything was timed. */
  checked: string;
  rows: Row[];
  /** The figures that a README would quote. */
  figures: Record<string, number>;
  plot: Plot;
}

/** Where a record comes from. Times of different records are not comparable; ratios within one are. */
export interface Environment {
  date: string;
  machine: { cpu: string; cores: number; memoryGiB: number };
  versions: Record<string, string>;
  model: string;
  backend: string;
  /** Id of the arithmetic, with the engine's version. */
  variant: string;
  threads: number;
}

/** The machine and the runtime that this process runs on. */
export function describeMachine(): Pick<Environment, "date" | "machine" | "versions"> {
  const { bun, deno, node } = process.versions;
  const versions: Record<string, string> = bun ? { bun } : deno ? { deno } : { node };
  return {
    date: new Date().toISOString(),
    machine: {
      cpu: cpus()[0]?.model.trim() ?? "unknown",
      cores: availableParallelism(),
      memoryGiB: Math.round(totalmem() / 2 ** 30),
    },
    versions,
  };
}

/** Rows as aligned text. */
export function table(rows: readonly Row[], digits = 2): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const text = (value: string | number | undefined) =>
    typeof value === "number" ? (Number.isInteger(value) ? `${value}` : value.toFixed(digits)) : value ?? "";
  const cells = [columns, ...rows.map((row) => columns.map((column) => text(row[column])))];
  const widths = columns.map((_, i) => Math.max(...cells.map((line) => line[i]!.length)));
  return cells.map((line) => line.map((cell, i) => cell.padEnd(widths[i]!)).join("  ").trimEnd()).join("\n");
}

/** Says what is being done, on a terminal only: what a program reads stays clean. */
export function progress(text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`);
}
