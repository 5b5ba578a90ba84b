/**
 * Runs the whole suite under Bun and under Deno and ends in one line, `N passed, N failed[, N skipped]`.
 *
 *   bun test/run.ts [--checks] [--only bun|deno] [path…]
 *
 * Counts come from the JUnit reports, not from scraped text, so a run that dies halfway is a failure. Before the last
 * line stands a line for each failure, `FAIL runtime: test: message`.
 */
import { execFileSync, spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { readJunit, type TestCounts } from "./junit.ts";

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

/** What only waits: it runs beside all others. */
const WAITS = "test/runtime/silence_test.ts";

const sum = (a: TestCounts, b: TestCounts): TestCounts => ({
  passed: a.passed + b.passed,
  failed: a.failed + b.failed,
  skipped: a.skipped + b.skipped,
  failures: [...a.failures, ...b.failures],
});

async function runSuite(runtime: "bun" | "deno", reports: string): Promise<TestCounts> {
  if (positionals.length > 0) return await runTests(runtime, join(reports, `${runtime}.xml`), paths);
  const ignore = runtime === "bun" ? `--path-ignore-patterns=${WAITS}` : `--ignore=${WAITS}`;
  const [most, waits] = await Promise.all([
    runTests(runtime, join(reports, `${runtime}.xml`), [ignore, ...paths]),
    runTests(runtime, join(reports, `${runtime}-waits.xml`), [WAITS]),
  ]);
  return sum(most, waits);
}

async function runTests(runtime: "bun" | "deno", report: string, paths: readonly string[]): Promise<TestCounts> {
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
  const counts = await readJunit(report);
  if (code !== 0 && counts.failed === 0) {
    counts.failed = 1;
    counts.failures.push(`a run of ${paths.at(-1)} ended with status ${code}`);
  }
  return counts;
}

async function runCheck(command: string, args: string[]): Promise<TestCounts> {
  const code = await run(command, args);
  return code === 0
    ? { passed: 1, failed: 0, skipped: 0, failures: [] }
    : { passed: 0, failed: 1, skipped: 0, failures: [`${args[0] ?? command} ended with status ${code}`] };
}

const deno = denoProgram();
const reports = await mkdtemp(join(tmpdir(), "hearth-test-"));
let total: TestCounts = { passed: 0, failed: 0, skipped: 0, failures: [] };
const add = (name: string, counts: TestCounts) => {
  total = sum(total, { ...counts, failures: counts.failures.map((failure) => `${name}: ${failure}`) });
  console.log(`${name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped.`);
};
try {
  if (flags.checks) {
    add("Format", await runCheck(deno, ["fmt", "--check", "--quiet"]));
    add("Lint", await runCheck(deno, ["lint", "--quiet"]));
    add("Types", await runCheck(bin("tsc"), ["--noEmit"]));
    add("Types in Deno", await runCheck(deno, ["check", "--quiet", "src/mod.ts", "src/runtime/deno.ts"]));
  }
  if (flags.only !== "deno") add("Bun", await runSuite("bun", reports));
  if (flags.only !== "bun") add("Deno", await runSuite("deno", reports));
} finally {
  await rm(reports, { recursive: true, force: true });
}
// Once more where they are found: far above, each stands in what its run printed.
for (const failure of total.failures) console.log(`FAIL ${failure}`);
console.log(
  `${total.passed} passed, ${total.failed} failed` + (total.skipped > 0 ? `, ${total.skipped} skipped` : ""),
);
process.exitCode = total.failed > 0 || total.passed === 0 ? 1 : 0;
