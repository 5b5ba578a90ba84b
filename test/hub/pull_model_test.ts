import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { lstat, mkdir, readdir, readFile, readlink, rm, utimes, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { verifyModel } from "../../src/hub/cached_models.ts";
import {
  blobs,
  cache,
  cacheDir,
  files,
  filler,
  hub,
  NAME,
  pull,
  rejectsSaying,
  text,
  useHub,
  WEIGHTS,
  weightsId,
} from "./served_repo.ts";

useHub();

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

  test("checks the disk before it fetches", async () => {
    const freeBytes = () => Promise.resolve(100_000);
    await rejectsSaying(
      pull({ freeBytes }),
      /^Cannot fetch 308 kB into .*: 100 kB are free; make room, or set HF_HUB_CACHE/,
    );
    assert.deepEqual(hub.seen.filter(({ host }) => host === "storage"), []);
  });
});
