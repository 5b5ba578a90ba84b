import assert from "node:assert/strict";
import { mkdir, open, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { describe, test } from "node:test";
import { StorageError } from "../../src/errors.ts";
import { GREEDY } from "../../src/sampling/sampling_params.ts";
import { decodeLog, encodeLog, encodeRecord, logRecord } from "../../src/session/session_log.ts";
import { storedSampling } from "../../src/session/transcript.ts";
import { collect } from "../fakes/fake_engine.ts";
import { durableEngine } from "../fakes/durable_engine.ts";
import { append, dataDir, filesEnding, type Started, useDataDir } from "./data_dir.ts";

useDataDir();

/** Does something while the disk refuses the n-th file or folder that is to be on it. */
async function refusingSync(n: number, work: () => Promise<void>): Promise<void> {
  const folder = await open(dataDir);
  const handle = Object.getPrototypeOf(folder) as typeof folder;
  await folder.close();
  const { sync } = handle;
  let syncs = 0;
  handle.sync = function () {
    return ++syncs === n ? Promise.reject(new Error("EIO")) : sync.call(this);
  };
  try {
    await work();
  } finally {
    handle.sync = sync;
  }
}

describe("SessionFiles", () => {
  test("a session is there after a restart, word for word, and goes on", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    await append(first, [4, 5]);
    const before = first.engine.sessions.inspect("s");
    // No dispose: the process is simply gone.
    const second = await durableEngine(dataDir);
    const { ids, turns, messages, createdAt } = second.engine.sessions.inspect("s");
    assert.deepEqual({ ids, turns, messages, createdAt }, {
      ids: before.ids,
      turns: before.turns,
      messages: before.messages,
      createdAt: before.createdAt,
    });
    assert.deepEqual(await append(second, [6]), await append(first, [6]));
  });

  test("messages, answers' ids and sampling come back too", async () => {
    const first = await durableEngine(dataDir, { vocabSize: 2000 });
    const session = { id: "chat", tenant: "acme" };
    const messages = [{ role: "user", content: "Hello" }];
    const sampling = { doSample: true, seed: 3, logitBias: new Map([[7, 1.5]]) };
    await collect(first.engine.generate({ prompt: { messages }, maxTokens: 5, sampling, session }));
    const second = await durableEngine(dataDir, { vocabSize: 2000 });
    const kept = second.engine.sessions.inspect("chat", { tenant: "acme" });
    assert.deepEqual(kept.messages, first.engine.sessions.inspect("chat", { tenant: "acme" }).messages);
    assert.deepEqual([kept.turns[0]!.sampling.seed, kept.turns[0]!.sampling.logitBias], [3, [[7, 1.5]]]);
    assert.deepEqual(second.engine.sessions.list(), []);
  });

  test("biases of ids that no vocabulary has, as earlier versions kept them, are read", () => {
    const turn = {
      replyStart: 1,
      end: 2,
      messagesEnd: 0,
      finishReason: "stop" as const,
      sampling: storedSampling({ ...GREEDY, logitBias: new Map([[3e9, 1], [1e20, 1]]) }),
      at: 0,
    };
    const delta = { keep: { ids: 0, messages: 0, turns: 0 }, ids: [1, 2], messages: [], turns: [turn] };
    const model = { id: "m", model: "", tokenizer: "", template: "" };
    const log = decodeLog(encodeLog({ tenant: "t", id: "s", createdAt: 0, model }, [logRecord(delta, undefined)]));
    assert.deepEqual("transcript" in log && log.transcript.turns, [turn]);
  });

  test("a turn that would not be read back is refused, not written", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    const before = first.engine.sessions.inspect("s");
    const session = { id: "s", mode: "append" as const };
    const request = { prompt: { ids: [4] }, maxTokens: 2, ignoreEos: true };
    // JSON has no such number.
    const endless = collect(first.engine.generate({ ...request, session: { ...session, ttlMs: Infinity } }));
    await assert.rejects(endless, (error) => error instanceof StorageError && /ttlMs/.test(error.message));
    assert.deepEqual(first.engine.sessions.inspect("s").ids, before.ids);
    const second = await durableEngine(dataDir);
    assert.deepEqual(second.engine.sessions.inspect("s").ids, before.ids);
    await append(second, [4]);
  });

  test("a record that is longer than one may be is not written", () => {
    const message = { role: "user", content: "x".repeat(2 ** 28) };
    const delta = { keep: { ids: 0, messages: 0, turns: 0 }, ids: [], messages: [message], turns: [] };
    assert.throws(() => encodeRecord(logRecord(delta, undefined)), /bytes, wanted at most 268435456/);
  });

  test("files are their owner's only, and their names tell nothing", async () => {
    await append(await durableEngine(dataDir), [1, 2, 3]);
    assert.equal((await stat(dataDir)).mode & 0o777, 0o700);
    for (const path of [...await filesEnding(".log"), join(dataDir, "secret")]) {
      assert.equal((await stat(path)).mode & 0o777, 0o600, path);
    }
    assert.match((await filesEnding(".log"))[0]!, /\/[0-9a-f]{64}\.log$/);
  });

  test("delete() leaves no file, and the session stays away", async () => {
    const first = await durableEngine(dataDir, { parkedBudgetBytes: 2 ** 20 });
    await append(first, [1, 2, 3]);
    await first.engine.sessions.park("s");
    assert.deepEqual([(await filesEnding(".log")).length, (await filesEnding(".kv")).length], [1, 1]);
    assert.equal(await first.engine.sessions.delete("s"), true);
    assert.deepEqual([...await filesEnding(".log"), ...await filesEnding(".kv")], []);
    const second = await durableEngine(dataDir);
    assert.throws(() => second.engine.sessions.inspect("s"), { name: "SessionNotFoundError" });
  });

  test("delete() that the disk refused can be done again, until no file is left", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    const [path] = await filesEnding(".log");
    const bytes = await readFile(path!);
    // A folder that holds something is nothing that a disk lets one unlink.
    await rm(path!);
    await mkdir(join(path!, "something"), { recursive: true });
    for (let n = 0; n < 2; n++) await assert.rejects(first.engine.sessions.delete("s"), StorageError);
    await rm(path!, { recursive: true });
    await writeFile(path!, bytes);
    assert.deepEqual([await first.engine.sessions.delete("s"), await first.engine.sessions.delete("s")], [true, false]);
    assert.deepEqual(await filesEnding(".log"), []);
    assert.throws(() => first.engine.sessions.inspect("s"), { reason: "deleted" });
  });

  test("delete() that is done again takes nothing of a session that came after it", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    // The log goes, and then the disk refuses.
    const parked = (await filesEnding(".log"))[0]!.replace(/log$/, "kv");
    await mkdir(join(parked, "something"), { recursive: true });
    await first.engine.sessions.fork("s", { newId: "other" });
    const deletions = [first.engine.sessions.delete("s"), first.engine.sessions.delete("s")];
    const made = first.engine.sessions.fork("other", { newId: "s" });
    for (const deletion of deletions) await assert.rejects(deletion, StorageError);
    await made;
    await append(first, [4]);
    await rm(parked, { recursive: true });
    const second = await durableEngine(dataDir);
    assert.deepEqual(second.engine.sessions.inspect("s").ids, first.engine.sessions.inspect("s").ids);
  });

  test("a new session that the disk refused at the last is not there after a restart", async () => {
    const first = await durableEngine(dataDir);
    // The file's own is the first, the folder's the second.
    await refusingSync(2, () => assert.rejects(first.engine.sessions.create({ id: "s" }), StorageError));
    assert.throws(() => first.engine.sessions.inspect("s"), { name: "SessionNotFoundError" });
    assert.deepEqual(await filesEnding(".log"), []);
    const second = await durableEngine(dataDir);
    assert.throws(() => second.engine.sessions.inspect("s"), { name: "SessionNotFoundError" });
  });

  test("delete() that is done again waits for the disk, also where the files have gone", async () => {
    const { engine } = await durableEngine(dataDir);
    await engine.sessions.create({ id: "s" });
    for (let n = 0; n < 2; n++) {
      await refusingSync(1, () => assert.rejects(engine.sessions.delete("s"), StorageError));
      assert.deepEqual(await filesEnding(".log"), []);
    }
    assert.deepEqual([await engine.sessions.delete("s"), await engine.sessions.delete("s")], [true, false]);
  });

  test("rewinds and forks survive", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    await append(first, [4]);
    await first.engine.sessions.fork("s", { newId: "branch", atTurn: 1 });
    await first.engine.sessions.rewind("s", { toToken: 5 });
    const second = await durableEngine(dataDir);
    for (const id of ["s", "branch"]) {
      assert.deepEqual(second.engine.sessions.inspect(id).ids, first.engine.sessions.inspect(id).ids);
    }
  });

  test("whatever byte a write stops at, the turns before it are there", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    const [path] = await filesEnding(".log");
    const whole = (await stat(path!)).size;
    const acknowledged = first.engine.sessions.inspect("s").ids;
    await append(first, [4, 5]);
    const bytes = await readFile(path!);
    for (let size = whole; size < bytes.length; size += 1 + (size % 7)) {
      await writeFile(path!, bytes.subarray(0, size));
      const { engine, files } = await durableEngine(dataDir);
      assert.deepEqual(engine.sessions.inspect("s").ids, acknowledged);
      assert.equal(files.recovered.cut, size > whole ? 1 : 0);
      assert.equal((await stat(path!)).size, whole);
    }
  });

  test("a tail of zeros, as a power cut leaves it, is cut off", async () => {
    const first = await durableEngine(dataDir);
    await append(first, [1, 2, 3]);
    const [path] = await filesEnding(".log");
    const whole = await readFile(path!);
    for (const zeros of [1, 24, 500]) {
      await writeFile(path!, Buffer.concat([whole, new Uint8Array(zeros)]));
      const { engine, files } = await durableEngine(dataDir);
      assert.deepEqual([files.recovered.cut, engine.sessions.inspect("s").turn], [1, 1]);
      assert.deepEqual(await readFile(path!), whole);
    }
  });

  test("a damaged file is refused with its reason, stays, and can be deleted", async () => {
    await append(await durableEngine(dataDir), [1, 2, 3]);
    const [path] = await filesEnding(".log");
    const good = await readFile(path!);
    for (let at = 0; at < good.length; at += 7) {
      const bad = Uint8Array.from(good);
      bad[at]! ^= 4;
      await writeFile(path!, bad);
      const { engine, files } = await durableEngine(dataDir);
      assert.equal(files.recovered.unreadable.length, 1, `byte ${at}`);
      assert.throws(() => engine.sessions.inspect("s"), { name: "SessionGoneError", reason: "unreadable" });
      await assert.rejects(append({ engine } as Started, [1]), /unreadable, the file/);
      assert.deepEqual(new Uint8Array(await readFile(path!)), bad);
    }
    const { engine } = await durableEngine(dataDir);
    assert.equal(await engine.sessions.delete("s"), true);
    assert.deepEqual(await filesEnding(".log"), []);
    await append({ engine } as Started, [1]);
  });

  test("an unknown format and another model's file are refused with their reasons", async () => {
    await append(await durableEngine(dataDir), [1, 2, 3]);
    const [path] = await filesEnding(".log");
    const good = await readFile(path!);
    await writeFile(path!, good.map((byte, i) => i === 7 ? 9 : byte));
    const { files } = await durableEngine(dataDir);
    assert.deepEqual(files.recovered.unreadable.map(({ reason }) => reason), [
      "the file has format 9, this version reads 1",
    ]);
    await writeFile(path!, good);
    const other = await durableEngine(dataDir, { tokenizerHash: "another" });
    assert.equal(other.files.recovered.unreadable[0]!.reason, "the file was made with another tokenizer");
  });

  test("a disk that refuses rolls the turn back, and the next one works", async () => {
    const started = await durableEngine(dataDir);
    await append(started, [1, 2, 3]);
    const before = started.engine.sessions.inspect("s").ids;
    const [path] = await filesEnding(".log");
    await rm(path!);
    await assert.rejects(append(started, [4]), StorageError);
    assert.deepEqual(started.engine.sessions.inspect("s").ids, before);
    assert.equal(started.engine.sessions.inspect("s").busy, false);
    assert.equal(await started.engine.sessions.delete("s"), true);
    await append(started, [4]);
  });

  test("a log does not grow with rewinds", async () => {
    const started = await durableEngine(dataDir);
    const ids = Array.from({ length: 2000 }, (_, i) => i % 50);
    await append(started, ids, 1);
    for (let n = 0; n < 40; n++) {
      await started.engine.sessions.rewind("s", { toTurn: 0 });
      await append(started, ids, 1);
    }
    const [path] = await filesEnding(".log");
    assert.ok((await stat(path!)).size < 150_000, `${(await stat(path!)).size} bytes`);
    const again = await durableEngine(dataDir);
    assert.equal(again.engine.sessions.inspect("s").tokens, 2001);
  });

  test("a session expires on disk too", async () => {
    const first = await durableEngine(dataDir);
    const session = { id: "s", ttlMs: 50 };
    await collect(first.engine.generate({ prompt: { ids: [1] }, maxTokens: 1, session }));
    const [path] = await filesEnding(".log");
    const bytes = await readFile(path!);
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.deepEqual(await filesEnding(".log"), []);
    // As it would be found by a server that was down meanwhile.
    await writeFile(path!, bytes);
    const second = await durableEngine(dataDir);
    assert.throws(() => second.engine.sessions.inspect("s"), { reason: "expired" });
    await second.engine.sessions.delete("s");
    assert.deepEqual(await filesEnding(".log"), []);
  });
});

test("a session is kept for as long as was promised, whatever came of it since its last change", async () => {
  const first = await durableEngine(dataDir);
  const { sessions } = first.engine;
  await append(first, [1, 2, 3]);
  const uses = [
    () => sessions.export("s"),
    () => sessions.evict("s"),
    () => assert.rejects(sessions.rewind("s", { toTurn: 9 })),
    async () => (await first.engine.start({ prompt: { ids: [4] }, session: { id: "s", mode: "append" } })).cancel(),
    () => sessions.fork("s", { newId: "branch" }),
  ];
  for (const use of uses) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    await use();
  }
  const second = await durableEngine(dataDir);
  for (const id of ["s", "branch"]) {
    const [promised, kept] = [sessions.describe(id), second.engine.sessions.describe(id)];
    assert.ok(kept.expiresAt! >= promised.expiresAt!, `${id} is kept ${promised.expiresAt! - kept.expiresAt!} ms less`);
  }
});

test("open() says why a folder cannot be used", async () => {
  await writeFile(dataDir, "a file");
  await assert.rejects(durableEngine(dataDir), StorageError);
});
