import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

const root = join(import.meta.dirname, "..", "..");
const runtimeArgs = process.versions.deno ? ["run", "-A", "--no-check"] : [];
const bench = (...args: string[]) =>
  promisify(execFile)(process.execPath, [...runtimeArgs, "bench/main.ts", ...args], { cwd: root });

test("bench measures a case after checking it, and its last line is the document", async () => {
  const { stdout } = await bench("--quick", "--runs", "1", "--only", "use_cache");
  assert.match(stdout, /both gave the same 16 tokens/);
  const { environment, cases } = JSON.parse(stdout.trimEnd().split("\n").at(-1)!);
  assert.equal(environment.model, "smollm2-135m-instruct");
  assert.equal(cases.length, 1);
  assert.ok(cases[0].figures.ratio > 1.5, `${cases[0].figures.ratio}`);
});

test("bench says which cases there are", async () => {
  await assert.rejects(bench("--only", "nothing"), /Cannot run case "nothing": wanted use_cache, session_turns/);
});
