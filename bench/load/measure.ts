/**
 * From the start of a process to the first token, in a process of its own: `measure.ts [--cold]`; prints one line,
 * {@linkcode Loaded}. `--cold` has the system forget the files before each reading, where it may.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { createEngine } from "../../src/engine/create_engine.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { onnxFile } from "../../src/model/onnx_file.ts";
import { parseEnvironment } from "../../src/runtime/options.ts";
import { statusMiB } from "./process_memory.ts";
import { readFiles } from "./read_files.ts";
import { weightBytes } from "./weight_bytes.ts";

/** Milliseconds and MiB. */
export interface Loaded {
  model: string;
  /** Whether the files came from the disk, not from the system's memory. */
  cold: boolean;
  /** From the start of the process to its first line of code. */
  startMs: number;
  /** The engine's start, the model's load included. */
  loadMs: number;
  /** From the start of the process to the first token, what this program measures taken out. */
  firstTokenMs: number;
  /** Reading the model's files into one small buffer, nothing else. */
  readMs: number;
  fileMiB: number;
  /** Weights as the engine keeps them. */
  keptMiB: number;
  /** The most that was resident while loading, of the whole process, and before. */
  peakMiB: number;
  beforeMiB: number;
}

const startMs = performance.timeOrigin + performance.now() - startOfProcess();
const options = parseEnvironment(process.env);
const path = await resolveModelPath(options.model);
const { config, id } = await readModelFolder(path);
const beforeMiB = statusMiB("VmRSS");
const cold = process.argv.includes("--cold") && forgetFiles();

const loadStartedAt = performance.now();
const engine = await createEngine(options);
const loadMs = performance.now() - loadStartedAt;
const peakMiB = statusMiB("VmHWM");
for await (const event of engine.generate({ prompt: { text: "The sea" }, maxTokens: 1, ignoreEos: true })) {
  if (event.type === "token") break;
}
const firstTokenMs = performance.timeOrigin + performance.now() - startOfProcess();
await engine[Symbol.asyncDispose]();

if (cold) forgetFiles();
const read = readFiles(dirname(onnxFile(path)));
const { kept } = await weightBytes({ path, config });
const mib = (bytes: number) => bytes / 2 ** 20;
const loaded: Loaded = {
  model: id,
  cold,
  startMs,
  loadMs,
  firstTokenMs,
  readMs: read.ms,
  fileMiB: mib(read.bytes),
  keptMiB: mib(kept),
  peakMiB,
  beforeMiB,
};
console.log(JSON.stringify(loaded));
process.exit(0);

/** Milliseconds since 1970, of a process on Linux: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html, field 22. */
function startOfProcess(): number {
  const fields = readFileSync("/proc/self/stat", "utf8").replace(/^.*\) /, "").split(" ");
  const bootedAt = Number(/^btime (\d+)/m.exec(readFileSync("/proc/stat", "utf8"))![1]) * 1000;
  const uptimeMs = 1000 * Number(readFileSync("/proc/uptime", "utf8").split(" ")[0]);
  // btime is in whole seconds; what is now less the uptime is finer.
  const finer = Date.now() - uptimeMs;
  return (Math.abs(finer - bootedAt) < 2000 ? finer : bootedAt) + 10 * Number(fields[19]);
}

/** Only root may; false where that did not work. */
function forgetFiles(): boolean {
  try {
    writeFileSync("/proc/sys/vm/drop_caches", "1");
    return true;
  } catch {
    return false;
  }
}
