import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { renderSvg } from "./plot.ts";
import type { CaseResult, Environment } from "./report.ts";

/**
 * Writes a case's figures and plot beside each other, named for day, runtime and case.
 * @returns the paths
 */
export async function writeRecord(folder: string, environment: Environment, result: CaseResult): Promise<string[]> {
  const { plot, ...rest } = result;
  const [runtime] = Object.keys(environment.versions);
  const base = join(folder, `${environment.date.slice(0, 10)}-${runtime}-${result.name}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${base}.json`, JSON.stringify({ environment, ...rest }, null, 2) + "\n");
  writeFileSync(`${base}.svg`, await renderSvg(plot));
  return [`${base}.json`, `${base}.svg`];
}
