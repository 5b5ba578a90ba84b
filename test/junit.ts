/** What a run of the suite says of itself in a JUnit report, which Bun and Deno both write. */
import { readFile } from "node:fs/promises";

/** How many test cases passed, failed and were skipped, and a line for each that failed. */
export interface TestCounts {
  passed: number;
  failed: number;
  skipped: number;
  failures: string[];
}

const CASE = /<testcase\b([^>]*?)(?:\/>|>([\s\S]*?)<\/testcase>)/g;
const ENTITIES: Record<string, string> = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&" };

/** An attribute's text on one line. */
function attribute(tag: string, name: string): string {
  const text = new RegExp(`\\b${name}="([^"]*)"`).exec(tag)?.[1] ?? "";
  const plain = text.replaceAll(/&(?:#(\d+)|#x([0-9a-f]+)|(\w+));/gi, (whole, decimal, hex, entity) => {
    if (entity) return ENTITIES[entity] ?? whole;
    return String.fromCodePoint(decimal ? Number(decimal) : parseInt(hex, 16));
  });
  return plain.replaceAll(/\s+/g, " ").trim();
}

/** Counts the cases of a report; one that is missing, because its run died, counts as one failure. */
export async function readJunit(path: string): Promise<TestCounts> {
  const xml = await readFile(path, "utf8").catch(() => undefined);
  if (xml === undefined) return { passed: 0, failed: 1, skipped: 0, failures: ["the run wrote no report"] };
  const counts: TestCounts = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const [, tag = "", body = ""] of xml.matchAll(CASE)) {
    const failure = /<(?:failure|error)\b[^>]*>/.exec(body)?.[0];
    if (failure) {
      counts.failed++;
      counts.failures.push(`${attribute(tag, "name")}: ${attribute(failure, "message").slice(0, 300)}`);
    } else if (/<skipped\b/.test(body)) counts.skipped++;
    else counts.passed++;
  }
  return counts;
}
