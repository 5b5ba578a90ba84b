/**
 * The simd engine under pressure: `simd_stress.ts [--starts 200] [--seconds 60] [--threads N]`.
 *
 * First starts and stops of the whole backend, then random passes on more threads than cores while another process keeps
 * a core busy. Every pass's logits are compared by hash with those of one thread; threads and memory have to come back
 * to where they were. A pass that takes longer than {@linkcode HANG_MS} counts as a hang. Ends in `N passed, N failed`.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Backend, ForwardRow } from "../../src/backend/backend.ts";
import { availableCpus } from "../../src/backend/host_resources.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { tinyModel } from "../backend/tiny_model.ts";

/** Far beyond what any pass takes, a busy machine included. */
const HANG_MS = 60_000;
/** What stopped threads are given to end. */
const SETTLE_MS = 5000;
/** Growth of the resident memory that is none: allocators and engines keep some. */
const SLACK_MIB = 150;

const { values: flags } = parseArgs({
  options: {
    starts: { type: "string", default: "200" },
    seconds: { type: "string", default: "60" },
    threads: { type: "string", default: `${2 * availableCpus() + 1}` },
  },
});
const threads = Number(flags.threads);

const threadsOfProcess = () => readdirSync("/proc/self/task").length;
const residentMiB = () => process.memoryUsage().rss / 2 ** 20;
const hash = (logits: Float32Array) =>
  createHash("sha256").update(new Uint8Array(logits.buffer, logits.byteOffset, logits.byteLength)).digest("hex");

function inTime<T>(work: Promise<T>, what: string): Promise<T> {
  let timer: ReturnType<typeof setTimeout>;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took more than ${HANG_MS} ms`)), HANG_MS);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

/** Threads once there are at most so many, or after a while: the system ends them some time after they were stopped. */
async function settledThreads(wanted: number): Promise<number> {
  for (const until = Date.now() + SETTLE_MS; Date.now() < until && threadsOfProcess() > wanted;) {
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return threadsOfProcess();
}

async function startsAndStops(count: number): Promise<string> {
  await using model = await tinyModel();
  const ids = Array.from({ length: 40 }, (_, i) => (7 * i) % 40);
  const hashes = new Set<string>();
  let before = { threads: 0, mib: 0 };
  for (let i = 0; i < count; i++) {
    const start = createSimdBackend({ modelDir: model.path, config: model.config, threads: 1 + i % threads });
    const backend = await inTime(start, `start ${i}`);
    const [result] = await inTime(backend.forward([{ tokenIds: ids }]), `the pass of start ${i}`);
    hashes.add(hash(result!.logits));
    await inTime(Promise.resolve(backend[Symbol.asyncDispose]()), `stop ${i}`);
    // Engines start helpers of their own once.
    if (i === Math.floor(count / 4)) before = { threads: await settledThreads(0), mib: residentMiB() };
  }
  assert.equal(hashes.size, 1, "starts gave different logits");
  const after = { threads: await settledThreads(before.threads + 2), mib: residentMiB() };
  assert.ok(after.threads <= before.threads + 2, `${before.threads} threads became ${after.threads}`);
  assert.ok(after.mib <= before.mib + SLACK_MIB, `${before.mib} MiB became ${after.mib}`);
  return `${count} starts and stops: ${after.threads} threads, ${Math.round(before.mib)} -> ${
    Math.round(after.mib)
  } MiB`;
}

/** Numbers that repeat, so that a failing pass can be run again. */
function random(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

/** Rows of pass number `n`: one prompt, or several sequences' tokens; too few distinct ones to be all new. */
function rowsOf(n: number, vocabSize: number): ForwardRow[] {
  const next = random(n % 24);
  const row = (tokens: number): ForwardRow => ({
    tokenIds: Array.from({ length: tokens }, () => next(vocabSize)),
  });
  return n % 3 === 0 ? [row(1 + next(60))] : Array.from({ length: 1 + next(6) }, () => row(1 + next(3)));
}

async function overcommitted(seconds: number): Promise<string> {
  const path = await resolveModelPath();
  const { config } = await readModelFolder(path);
  const start = (threads: number) => createSimdBackend({ modelDir: path, config, threads });
  const pass = async (backend: Backend, n: number) => {
    const results = await inTime(
      backend.forward(rowsOf(n, config.vocabSize)),
      `pass ${n} on ${backend.info.threads} threads`,
    );
    return results.map(({ logits }) => hash(logits)).join();
  };
  const expected: string[] = [];
  {
    await using single = await start(1);
    for (let n = 0; n < 24; n++) expected.push(await pass(single, n));
  }
  const flags = process.versions.deno ? ["run", "--no-check"] : [];
  const busy = spawn(process.execPath, [...flags, join(import.meta.dirname!, "busy_core.ts")], { stdio: "ignore" });
  try {
    await using backend = await start(threads);
    let [passes, before] = [0, 0];
    for (const until = Date.now() + 1000 * seconds; Date.now() < until; passes++) {
      assert.equal(await pass(backend, passes), expected[passes % 24], `pass ${passes} gave other logits`);
      // A random pause lets threads fall asleep, or not quite.
      if (passes % 5 === 0) await new Promise((resolve) => setTimeout(resolve, passes % 4));
      if (passes === 100) before = residentMiB();
    }
    const after = residentMiB();
    assert.ok(before === 0 || after <= before + SLACK_MIB, `${before} MiB became ${after}`);
    return `${passes} passes in ${seconds} s on ${threads} threads beside a busy process: all hashes equal, ` +
      `${Math.round(before)} -> ${Math.round(after)} MiB`;
  } finally {
    busy.kill("SIGKILL");
  }
}

let [passed, failed] = [0, 0];
for (
  const check of [() => startsAndStops(Number(flags.starts)), () => overcommitted(Number(flags.seconds))]
) {
  try {
    console.log(await check());
    passed++;
  } catch (error) {
    console.log((error as Error).message);
    failed++;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
