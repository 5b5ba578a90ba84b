/**
 * Runs the whole suite under Bun and under Deno and ends in one line, `N passed, N failed[, N skipped]`.
 *
 *   bun test/run.ts [--checks] [--only bun|deno] [path…]
 *
 * Counts come from the JUnit reports, not from scraped text, so a run that dies halfway is a failure.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const root = join(import.meta.dirname, "..");
const bin = (name: string) => join(root, "node_modules", ".bin", name);

const { values: flags, positionals } = parseArgs({
  options: { checks: { type: "boolean", default: false }, only: { type: "string" } },
  allowPositionals: true,
});
const paths = positionals.length > 0 ? positionals : ["test"];

/** A run that takes longer hangs: it is ended, and a failure. */
const LIMIT_MS = 30 * 60_000;

/** Runs a command with its output shown; resolves to its exit code. */
function run(command: string, args: string[]): Promise<number> {
  console.log(`\n$ ${[command.split("/").pop(), ...args].join(" ")}`);
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", timeout: LIMIT_MS, killSignal: "SIGKILL" });
    child.once("error", reject);
    child.once("close", (code, signal) => {
      if (signal) console.log(`Ended by ${signal}; after ${LIMIT_MS / 60_000} minutes that is done here.`);
      resolve(code ?? 1);
    });
  });
}

/**
 * The program behind `.bin/deno`, which a script links there at its first start. Two first starts at once each link
 * one, and the tests of the loser could not start their own runtime again (deno 2.9.6, install_api.cjs).
 */
const denoProgram = () =>
  execFileSync(bin("deno"), ["eval", "console.log(Deno.execPath())"], { encoding: "utf8" }).trim();

/** Counts the test cases of a JUnit report; a missing report counts as one failure. */
async function countJunit(path: string): Promise<Counts> {
  const xml = await readFile(path, "utf8").catch(() => undefined);
  if (xml === undefined) return { passed: 0, failed: 1, skipped: 0 };
  const cases = xml.match(/<testcase\b[^>]*?(\/>|>[\s\S]*?<\/testcase>)/g) ?? [];
  const failed = cases.filter((c) => /<(failure|error)\b/.test(c)).length;
  const skipped = cases.filter((c) => /<skipped\b/.test(c)).length;
  return { passed: cases.length - failed - skipped, failed, skipped };
}

/** What only waits: it runs beside all others. */
const WAITS = "test/runtime/silence_test.ts";

async function runSuite(runtime: "bun" | "deno", reports: string): Promise<Counts> {
  if (positionals.length > 0) return await runTests(runtime, join(reports, `${runtime}.xml`), paths);
  const ignore = runtime === "bun" ? `--path-ignore-patterns=${WAITS}` : `--ignore=${WAITS}`;
  const [most, waits] = await Promise.all([
    runTests(runtime, join(reports, `${runtime}.xml`), [ignore, ...paths]),
    runTests(runtime, join(reports, `${runtime}-waits.xml`), [WAITS]),
  ]);
  return {
    passed: most.passed + waits.passed,
    failed: most.failed + waits.failed,
    skipped: most.skipped + waits.skipped,
  };
}

async function runTests(runtime: "bun" | "deno", report: string, paths: readonly string[]): Promise<Counts> {
  const code = runtime === "bun"
    // A property test or a model run may take longer than Bun's default of 5 s a test.
    ? await run(process.versions.bun ? process.execPath : bin("bun"), [
      "test",
      "--timeout=180000",
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      ...paths,
    ])
    : await run(deno, ["test", "-A", "--no-check", "--quiet", `--junit-path=${report}`, ...paths]);
  const counts = await countJunit(report);
  if (code !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

async function runCheck(command: string, args: string[]): Promise<Counts> {
  const code = await run(command, args);
  return { passed: code === 0 ? 1 : 0, failed: code === 0 ? 0 : 1, skipped: 0 };
}

const deno = denoProgram();
const reports = await mkdtemp(join(tmpdir(), "hearth-test-"));
const total: Counts = { passed: 0, failed: 0, skipped: 0 };
const add = (name: string, counts: Counts) => {
  for (const key of ["passed", "failed", "skipped"] as const) total[key] += counts[key];
  console.log(`${name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped.`);
};
try {
  if (flags.checks) {
    add("Format", await runCheck(deno, ["fmt", "--check", "--quiet"]));
    add("Lint", await runCheck(deno, ["lint", "--quiet"]));
    add("Types", await runCheck(bin("tsc"), ["--noEmit"]));
  }
  if (flags.only !== "deno") add("Bun", await runSuite("bun", reports));
  if (flags.only !== "bun") add("Deno", await runSuite("deno", reports));
} finally {
  await rm(reports, { recursive: true, force: true });
}
console.log(
  `${total.passed} passed, ${total.failed} failed` + (total.skipped > 0 ? `, ${total.skipped} skipped` : ""),
);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
