import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, utimes, writeFile } from "node:fs/promises";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, beforeEach, describe, test } from "node:test";
import { DownloadError } from "../../src/errors.ts";
import { CacheLayout } from "../../src/hub/cache_layout.ts";
import { listModels, removeModel, verifyModel } from "../../src/hub/cached_models.ts";
import { pullModel, type PullOptions } from "../../src/hub/pull_model.ts";
import { parseRepoName } from "../../src/hub/repo_name.ts";
import { LocalHub } from "./local_hub.ts";

const NAME = "some-owner/Tiny-1.0_onnx";
const WEIGHTS = "onnx/model_q4.onnx_data";

/** Bytes that differ from place to place. */
const filler = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * seed) & 255);
const text = (content: string) => new TextEncoder().encode(content);
const files = new Map<string, Uint8Array>([
  ["config.json", text("{}")],
  ["tokenizer.json", filler(5000, 1)],
  ["tokenizer_config.json", text('{"a":1}')],
  ["README.md", filler(9000, 2)],
  ["onnx/model_q4.onnx", filler(3000, 3)],
  [WEIGHTS, filler(300_000, 4)],
  ["onnx/model_q4f16.onnx", filler(3000, 5)],
  ["onnx/model_q4f16.onnx_data", filler(200_000, 6)],
]);

let hub: LocalHub;
let cacheDir: string;
beforeEach(async () => {
  hub = await LocalHub.start(NAME, files);
  cacheDir = await mkdtemp(join(tmpdir(), "hearth-hub-"));
});
afterEach(async () => {
  await hub[Symbol.asyncDispose]();
  await rm(cacheDir, { recursive: true, force: true });
});

const cache = () => new CacheLayout(cacheDir, NAME);
const pull = (options: PullOptions = {}, token?: string, name = NAME) =>
  pullModel(parseRepoName(name), { endpoint: hub.url, token, cacheDir }, { backoffMs: 1, attempts: 3, ...options });
const rejectsSaying = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error) => error instanceof DownloadError && message.test(error.message));

/** The id of the weights, which names their blob. */
async function weightsId(): Promise<string> {
  const { createHash } = await import("node:crypto");
  return createHash("sha256").update(files.get(WEIGHTS)!).digest("hex");
}
const blobs = async () => (await readdir(join(cache().root, "blobs")).catch(() => [])).sort();

describe("pullModel()", () => {
  test("fetches one graph with its data and configuration, as links to blobs", async () => {
    const { path, variant, commit, bytes, fetchedBytes } = await pull();
    assert.equal(variant, "q4");
    assert.equal(path, join(cacheDir, "models--some-owner--Tiny-1.0_onnx", "snapshots", commit));
    assert.equal(bytes, fetchedBytes);
    for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model_q4.onnx", WEIGHTS]) {
      assert.ok((await lstat(join(path, name))).isSymbolicLink());
      assert.deepEqual(new Uint8Array(await readFile(join(path, name))), files.get(name));
    }
    assert.equal(await readlink(join(path, WEIGHTS)), join("..", "..", "..", "blobs", await weightsId()));
    assert.deepEqual((await readdir(join(path, "onnx"))).sort(), ["model_q4.onnx", "model_q4.onnx_data"]);
    assert.equal(await readFile(join(cache().root, "refs", "main"), "utf8"), commit);
    assert.equal((await pull()).fetchedBytes, 0);
    assert.deepEqual(hub.ranges(WEIGHTS), [undefined], "what is there is not fetched again");
  });

  test("takes the variant that was asked for, and says which there are", async () => {
    const { path, variant } = await pull({ variant: "q4f16" });
    assert.equal(variant, "q4f16");
    assert.deepEqual((await readdir(join(path, "onnx"))).sort(), ["model_q4f16.onnx", "model_q4f16.onnx_data"]);
    assert.equal((await pull({ floats: "f16" })).variant, "q4f16", "for what computes in f16");
    assert.equal((await pull({ floats: "f16", variant: "q4" })).variant, "q4", "but what was asked for");
    await rejectsSaying(pull({ variant: "q1" }), /no ONNX graph "q1", wanted --variant of q4, q4f16$/);
  });

  test("takes a genai folder as the model folder", async () => {
    for (const name of [...files.keys()].filter((name) => name.startsWith("onnx/"))) hub.files.delete(name);
    for (const folder of ["cpu/cpu-int4-rtn-block-32", "cpu/cpu-int4-rtn-block-32-acc-level-4", "cuda/cuda-fp16"]) {
      for (const name of ["config.json", "tokenizer.json", "tokenizer_config.json", "genai_config.json", "a.onnx"]) {
        hub.files.set(`${folder}/${name}`, text(`{"in":"${folder}/${name}"}`));
      }
      hub.files.set(`${folder}/a.onnx.data`, filler(2000, folder.length));
    }
    const { path, variant, commit } = await pull();
    assert.equal(variant, "cpu/cpu-int4-rtn-block-32-acc-level-4");
    assert.equal(path, join(cache().snapshot(commit), variant));
    assert.equal((await readdir(path)).length, 6);
    assert.equal((await pull({ floats: "f16" })).variant, variant, "where there is no q4f16");
    assert.equal((await pull({ variant: "cpu-int4-rtn-block-32" })).variant, "cpu/cpu-int4-rtn-block-32");
  });

  test("goes on where connections were dropped", async () => {
    hub.faults.set(WEIGHTS, { dropAfter: 70_000, drops: 3 });
    let last = 0;
    const { path } = await pull({ onTransfer: ({ done, total }) => last = done / total });
    assert.equal(last, 1);
    assert.deepEqual(new Uint8Array(await readFile(join(path, WEIGHTS))), files.get(WEIGHTS));
    const ranges = hub.ranges(WEIGHTS);
    assert.equal(ranges.length, 4);
    assert.deepEqual(ranges, [undefined, "bytes=70000-", "bytes=140000-", "bytes=210000-"]);
  });

  test("stopped in the middle, the next pull fetches the rest only", async () => {
    const stop = new AbortController();
    hub.faults.set(WEIGHTS, { dropAfter: 100_000, drops: 1 });
    const weightsCame = (file: string, done: number) => file === WEIGHTS && done > 100_000;
    const stopped = pull({
      signal: stop.signal,
      onTransfer: ({ file, done }) => weightsCame(file, done) && stop.abort(),
    });
    await assert.rejects(stopped, { name: "AbortError" });
    const { size } = await lstat(cache().partial(await weightsId()));
    assert.ok(size > 0 && size < 300_000);
    await pull();
    assert.equal(hub.ranges(WEIGHTS).at(-1), `bytes=${size}-`);
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
  });

  test("starts over where the server has no ranges, and where an old part is damaged", async () => {
    hub.faults.set(WEIGHTS, { dropAfter: 50_000, drops: 1, ignoresRange: true });
    await pull();
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
    hub.faults.clear();
    const id = await weightsId();
    await rm(cache().blob(id));
    await writeFile(cache().partial(id), new Uint8Array(1000));
    await pull();
    assert.deepEqual(hub.ranges(WEIGHTS).slice(-2), ["bytes=1000-", undefined]);
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
  });

  test("two at once fetch each file once", async () => {
    hub.faults.set(WEIGHTS, { dropAfter: 70_000, drops: 2 });
    const [one, two] = await Promise.all([pull(), pull()]);
    assert.equal(one.path, two.path);
    assert.deepEqual(hub.ranges(WEIGHTS), [undefined, "bytes=70000-", "bytes=140000-"]);
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
    assert.deepEqual((await blobs()).filter((name) => name.includes(".")), []);
  });

  test("two at once make one snapshot of blobs that are there", async () => {
    await pull();
    for (let round = 0; round < 5; round++) {
      for (const folder of ["snapshots", "refs", ".hearth"]) await rm(join(cache().root, folder), { recursive: true });
      const [{ commit }] = await Promise.all([pull(), pull(), pull()]);
      assert.equal(await cache().commitOf("main"), commit);
      assert.ok(await cache().isWhole(commit, (await cache().manifest(commit))!));
      assert.deepEqual(await readdir(join(cache().root, ".hearth")), [`${commit}.json`]);
    }
  });

  test("takes over the lock of a process that is gone", async () => {
    const id = await weightsId();
    await mkdir(join(cache().root, "blobs"), { recursive: true });
    const child = spawn(process.execPath, ["--version"], { stdio: "ignore" });
    await once(child, "close");
    await writeFile(`${cache().partial(id)}.lock`, `${hostname()} ${child.pid} x`);
    await pull();
    assert.deepEqual((await blobs()).filter((name) => name.includes(".")), []);
    // Its number is this process's now, but nobody has shown that it lives.
    await rm(cache().blob(id));
    const lock = `${cache().partial(id)}.lock`;
    await writeFile(lock, `${hostname()} ${process.pid} x`);
    await utimes(lock, 0, 0);
    await pull();
    assert.deepEqual((await blobs()).filter((name) => name.includes(".")), []);
  });

  test("gives up on a connection that brings nothing, and keeps what came", async () => {
    hub.faults.set(WEIGHTS, { silent: true });
    await rejectsSaying(pull({ stallMs: 100 }), /^Cannot get onnx\/model_q4.onnx_data: .*after \d+ of 300000 bytes/);
    assert.ok((await lstat(cache().partial(await weightsId()))).size >= 10);
    hub.faults.clear();
    hub.faults.set(WEIGHTS, { dropAfter: 0 });
    await rejectsSaying(pull(), /the connection .* after \d+ of 300000 bytes; the same command goes on from there/);
  });

  test("gives up on a server that has no parts and ends each connection, further on or not", async () => {
    let asked = 0;
    hub.faults.set(WEIGHTS, {
      ignoresRange: true,
      drops: 50,
      // Read twice a connection.
      get dropAfter() {
        return asked++ & 2 ? 70_000 : 50_000;
      },
    });
    await rejectsSaying(pull(), /after \d0000 of 300000 bytes; the same command goes on from there$/);
    assert.ok(hub.ranges(WEIGHTS).length < 10);
  });

  test("refuses a file that is longer than announced, before it writes more than that", async () => {
    hub.faults.set(WEIGHTS, { extra: 100_000 });
    await rejectsSaying(pull(), /the hub sends \d+ bytes or more, it announced 300000$/);
    const partial = await lstat(cache().partial(await weightsId())).catch(() => undefined);
    assert.ok((partial?.size ?? 0) <= 300_000);
    assert.equal((await blobs()).includes(await weightsId()), false);
  });

  test("refuses a file that is shorter than announced", async () => {
    hub.faults.set(WEIGHTS, { announceMore: 50 });
    await rejectsSaying(pull(), /^Cannot get .* after 300000 of 300050 bytes/);
    assert.equal((await blobs()).includes(await weightsId()), false);
  });

  test("refuses damaged files, large and small, and leaves nothing of them", async () => {
    for (const name of ["config.json", WEIGHTS]) {
      hub.faults.clear();
      hub.faults.set(name, { damaged: true });
      await rejectsSaying(pull(), /what came is damaged, (sha256|git's sha1) [0-9a-f]+, wanted [0-9a-f]+$/);
      assert.equal((await blobs()).some((blob) => blob.endsWith(".incomplete")), false);
    }
    hub.faults.clear();
    await pull();
    assert.deepEqual((await verifyModel(cacheDir, NAME)).bad, []);
  });

  test("says what to do when the hub refuses", async () => {
    for (
      const [status, todo] of [[401, /set HF_TOKEN/], [403, /accept the model's terms/], [404, /no such/]] as const
    ) {
      hub.refusals.push({ status });
      await rejectsSaying(pull(), todo);
    }
    await rejectsSaying(pull({}, undefined, `${NAME}@other`), /answered 404/);
  });

  test("waits as a busy hub asks, and not for ever", async () => {
    hub.refusals.push({ status: 503 }, { status: 429, headers: { "retry-after": "1" } });
    const startedAt = performance.now();
    await pull();
    assert.ok(performance.now() - startedAt >= 990, "Retry-After is honoured");
    hub.refusals.push({ status: 429, headers: { "retry-after": "86400" } });
    await rejectsSaying(pull(), /answered 429; it asks to wait 86400 s$/);
    hub.refusals.push(...Array.from({ length: 3 }, () => ({ status: 503 })));
    await rejectsSaying(pull(), /answered 503; try again later$/);
  });

  test("sends the token to the hub and to nobody else", async () => {
    hub.token = "hf_secret";
    await rejectsSaying(pull({}, "hf_other"), /set HF_TOKEN/);
    await pull({}, "hf_secret");
    const tokens = (host: string) => new Set(hub.seen.filter((one) => one.host === host).map(({ token }) => token));
    assert.deepEqual(tokens("hub"), new Set(["Bearer hf_other", "Bearer hf_secret"]));
    assert.deepEqual(tokens("storage"), new Set([undefined]));
  });

  test("refuses a token that no header can have, and does not show it", async () => {
    for (const token of ["hf_sesame\nhf_sesame", "“hf_sesame”", "hf_sesame hf_sesame"]) {
      await rejectsSaying(pull({}, token), /^Cannot use HF_TOKEN="…"(?!.*sesame)/s);
    }
    assert.deepEqual(hub.seen, []);
  });

  test("refuses paths that lead out of the cache or are not the same everywhere", async () => {
    const paths = [
      "../x.json",
      "a/../../config.json",
      "/etc/passwd",
      "a\\b",
      "C:x",
      "a//b",
      "NUL",
      "onnx/com1.txt",
      "a/.",
      "x.",
      "a\nb",
      "\x1b[2J.json",
      "a\u009bb",
      "config\u202enosj.json",
      "a\u2066b",
      "a\u200bb",
      "a\u2028b",
      "a\ufeffb",
      "a\ud800b",
    ];
    for (const path of paths) {
      hub.alsoListed.splice(0, 1, { type: "file", path, size: 1, oid: "a".repeat(40) });
      // What is seen of the path is printable ASCII: these would steer a terminal.
      await rejectsSaying(pull(), /^Cannot use file "[ -~]*" of the hub: wanted a plain relative path$/);
    }
    hub.alsoListed.splice(0, 1, { type: "file", path: "config.json", size: 1, oid: "a".repeat(40) });
    await rejectsSaying(pull(), /^Cannot list some-owner\/Tiny-1.0_onnx: it has config.json twice$/);
    for (const wrong of [{ oid: "../../x" }, { size: -1 }, { size: 1.5 }, { lfs: { oid: "..", size: 1 } }]) {
      hub.alsoListed.splice(0, 1, { type: "file", path: "a", size: 1, oid: "a".repeat(40), ...wrong });
      await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    }
    hub.alsoListed.length = 0;
    for (const pages of [null, {}, 5, [null]]) {
      hub.listingFault = { pages };
      await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    }
    hub.listingFault = undefined;
    hub.commit = "../../../outside";
    await rejectsSaying(pull(), /^Cannot use what the hub says of /);
    assert.deepEqual(await readdir(cacheDir), []);
  });

  test("gives up on a listing that does not come, and not for one pause of it", async () => {
    const cannot = /^Cannot reach the hub at http:.*: it said nothing for 0.1 s; see HF_ENDPOINT/;
    hub.listingFault = "silent";
    await rejectsSaying(pull({ stallMs: 100, attempts: 2 }), cannot);
    hub.listingFault = "trickles";
    await rejectsSaying(
      pull({ stallMs: 1000, pageMs: 200, attempts: 1 }),
      /^Cannot reach the hub at http:.*: its answer took longer than 0.2 s/,
    );
    hub.listingFault = "breaks";
    await rejectsSaying(pull({ attempts: 2 }), /^Cannot reach the hub at http:/);
    for (const fault of ["silent", "breaks"] as const) {
      hub.listingFault = fault;
      const before = hub.seen.length;
      const pulled = pull({ stallMs: 200, backoffMs: 50 });
      while (!hub.seen.slice(before).some(({ url }) => url.includes("/tree/"))) await sleep(1);
      hub.listingFault = undefined;
      await pulled;
    }
  });

  test("stops at once where a listing does not come", async () => {
    hub.listingFault = "silent";
    const stop = new AbortController();
    setTimeout(() => stop.abort(), 50);
    await assert.rejects(pull({ signal: stop.signal }), { name: "AbortError" });
  });

  test("refuses a listing without an end", async () => {
    hub.listingFault = "endless page";
    await rejectsSaying(pull(), /^Cannot use what the hub says: it is longer than 8.4 MB$/);
    hub.listingFault = "endless pages";
    await rejectsSaying(pull(), /it has more than 100 pages$/);
    assert.ok(hub.seen.length < 110, `${hub.seen.length} requests`);
    hub.listingFault = undefined;
    for (const type of ["file", "directory"]) {
      hub.alsoListed.splice(0);
      for (let i = 0; i < 20_001; i++) hub.alsoListed.push({ type, path: `${i}`, size: 1, oid: "a".repeat(40) });
      await rejectsSaying(pull(), /it has more than 20000 files and folders$/);
    }
  });

  test("goes nowhere as somebody else", async () => {
    const { host } = new URL(hub.url);
    const refused = /^Cannot get \S+: sent to a URL with a user or password in it, wanted one without$/;
    for (const who of ["user:pass@", "user@", ":pass@"]) {
      hub.redirect = `http://${who}${host}/x`;
      await rejectsSaying(pull(), refused);
    }
    hub.listingFault = { next: `http://user:pass@${host}/api/models/${NAME}/tree/x?cursor=2` };
    await rejectsSaying(pull(), refused);
    hub.listingFault = { next: `http://localhost:${new URL(hub.url).port}/other` };
    await rejectsSaying(pull(), /^Cannot get http:\/\/localhost:\d+\/other: wanted a URL of http:/);
    assert.ok(hub.seen.every(({ token, url }) => token === undefined && !/^\/(x|other)$/.test(url)));
  });

  test("checks the disk before it fetches", async () => {
    const freeBytes = () => Promise.resolve(100_000);
    await rejectsSaying(
      pull({ freeBytes }),
      /^Cannot fetch 308 kB into .*: 100 kB are free; make room, or set HF_HUB_CACHE/,
    );
    assert.deepEqual(hub.seen.filter(({ host }) => host === "storage"), []);
  });
});

describe("the cache", () => {
  test("listModels(), verifyModel() and removeModel() see what was pulled", async () => {
    assert.deepEqual(await listModels(cacheDir), []);
    const { commit, bytes } = await pull();
    const snapshot = { commit, refs: ["main"], files: 5, variant: "q4" };
    assert.deepEqual(await listModels(cacheDir), [{ name: NAME, bytes, partialBytes: 0, snapshots: [snapshot] }]);
    const blob = cache().blob(await weightsId());
    const damaged = new Uint8Array(await readFile(blob));
    damaged[1234]! ^= 4;
    await writeFile(blob, damaged);
    const { files, bad } = await verifyModel(cacheDir, NAME);
    assert.equal(files, 5);
    assert.deepEqual(bad.map(({ path }) => path), [WEIGHTS]);
    await rm(blob);
    assert.match((await verifyModel(cacheDir, NAME)).bad[0]!.reason, /blob is missing/);
    await removeModel(cacheDir, NAME);
    assert.deepEqual(await readdir(cacheDir), []);
    await assert.rejects(removeModel(cacheDir, NAME), /^InvalidRequestError: Cannot find /);
  });

  test("parseRepoName() refuses what could become another folder", () => {
    assert.deepEqual(parseRepoName("a/b@v1.0"), { name: "a/b", revision: "v1.0" });
    for (
      const bad of ["a", "a/b/c", "../b", "a/..", "a/b--c", "a/.b", "a/b@../x", "a/b@/x", "a/b@", "a/b@x//y", "a b/c"]
    ) {
      assert.throws(() => parseRepoName(bad), { name: "InvalidRequestError" }, bad);
    }
  });
});
