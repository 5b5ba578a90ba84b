import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { CapsuleError, type CapsuleErrorCode, InvalidRequestError, SessionExistsError } from "../../src/errors.ts";
import { joinCapsule, parseCapsule } from "../../src/session/capsule_format.ts";
import { sha256 } from "../../src/model/sha256.ts";
import type { TranscriptDelta } from "../../src/session/transcript.ts";
import { FAKE_BYTES_PER_TOKEN } from "../fakes/fake_backend.ts";
import { bundled, collect, fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";

const KEY = { sessionKey: "a secret that is hard to guess" };

/** An engine with a session `s` of two turns of ids and one `chat` of messages. */
async function withSessions(options: FakeEngineOptions = {}) {
  const started = fakeEngine(options);
  const { engine } = started;
  const session = { id: "s" };
  await collect(engine.generate({ prompt: { ids: [1, 2, 3] }, maxTokens: 5, ignoreEos: true, session }));
  const append = { ...session, mode: "append" as const };
  await collect(engine.generate({ prompt: { ids: [4] }, maxTokens: 5, ignoreEos: true, session: append }));
  const messages = [{ role: "user", content: "Hello there" }];
  await collect(engine.generate({ prompt: { messages }, maxTokens: 5, ignoreEos: true, session: { id: "chat" } }));
  return started;
}

/** {@linkcode withSessions}, `chat` with a second turn, and its capsule with the transcript changed, checksums right. */
async function withChat() {
  const { engine } = await withSessions();
  const request = { prompt: { messages: [{ role: "user", content: "And?" }] }, maxTokens: 5, ignoreEos: true };
  await collect(engine.generate({ ...request, session: { id: "chat", mode: "append" } }));
  const { header, blocks } = await parseCapsule(await engine.sessions.export("chat"));
  const forged = async (change: (transcript: TranscriptDelta) => void) => {
    const transcript = JSON.parse(new TextDecoder().decode(blocks[0]!.bytes));
    change(transcript);
    const data = new TextEncoder().encode(JSON.stringify(transcript));
    const block = { ...header.blocks[0]!, byteLength: data.length, sha256: await sha256(data) };
    return await joinCapsule({ ...header, blocks: [block] }, [data]);
  };
  return { engine, forged };
}

type Engine = ReturnType<typeof fakeEngine>["engine"];

const next = (engine: Engine, id: string) =>
  collect(engine.generate({
    prompt: { ids: [9] },
    maxTokens: 4,
    ignoreEos: true,
    session: { id, mode: "append" },
  }));

/** What an engine remembers, but for when. */
const memory = (engine: Engine) =>
  engine.sessions.list().map(({ id }) => {
    const { ids, messages, turn, state, cachedTokens } = engine.sessions.inspect(id);
    return { id, ids, messages, turn, state, cachedTokens };
  });

async function refused(engine: Engine, bytes: Uint8Array, code: CapsuleErrorCode, about?: RegExp): Promise<void> {
  const before = memory(engine);
  await assert.rejects(engine.sessions.import(bytes, { id: "new" }), (error) => {
    assert.ok(error instanceof CapsuleError, error as Error);
    assert.equal(error.code, code);
    if (about) assert.match(error.message, about);
    return true;
  });
  assert.deepEqual(memory(engine), before);
}

describe("a capsule", () => {
  for (const [name, options] of [["in the clear", {}], ["sealed", KEY]] as const) {
    test(`${name} takes ids, messages and turns along`, async () => {
      const { engine } = await withSessions(options);
      const other = fakeEngine(options).engine;
      for (const id of ["s", "chat"]) {
        const imported = await other.sessions.import(await engine.sessions.export(id));
        assert.deepEqual([imported.id, imported.kvTokens, imported.kvRefused], [id, 0, undefined]);
        const [there, here] = [other.sessions.inspect(id), engine.sessions.inspect(id)];
        assert.deepEqual([there.ids, there.messages, there.turns], [here.ids, here.messages, here.turns]);
      }
      assert.deepEqual((await next(other, "s")).ids, (await next(engine, "s")).ids);
    });
  }

  test("sealed with KV: the next turn's cached tokens are what came along", async () => {
    for (const state of ["hot", "warm"]) {
      const { engine } = await withSessions({ ...KEY, warmBudgetBytes: 2 ** 20, parking: { pays: () => true } });
      if (state === "warm") await engine.sessions.park("s");
      assert.equal(engine.sessions.inspect("s").state, state);
      const other = fakeEngine(KEY).engine;
      const { kvTokens } = await other.sessions.import(await engine.sessions.export("s", { kv: true }));
      assert.equal(kvTokens, 13);
      const answer = await next(other, "s");
      assert.equal(answer.end.usage.cachedTokens, 13);
      assert.deepEqual(answer.ids, (await next(engine, "s")).ids);
    }
  });

  test("KV that this server did not seal is not believed", async () => {
    const { engine } = await withSessions();
    const clear = await engine.sessions.export("s", { kv: true });
    const other = fakeEngine(KEY).engine;
    assert.equal((await other.sessions.import(clear)).kvRefused, "not_authenticated");
    assert.deepEqual((await next(other, "s")).ids, (await next(engine, "s")).ids);
  });

  test("sealed KV that was changed, checksums and all, is evaluated instead", async () => {
    const { engine } = await withSessions(KEY);
    const { header, blocks } = await parseCapsule(await engine.sessions.export("s", { kv: true }));
    const parts = blocks.map(({ bytes }) => Uint8Array.from(bytes));
    parts.at(-1)![3]! ^= 1;
    header.blocks.at(-1)!.sha256 = await sha256(parts.at(-1)!);
    const other = fakeEngine(KEY).engine;
    assert.equal((await other.sessions.import(await joinCapsule(header, parts))).kvRefused, "not_authenticated");
    assert.deepEqual((await next(other, "s")).ids, (await next(engine, "s")).ids);
    // A header that says something else opens nothing at all.
    await refused(engine, await joinCapsule({ ...header, tokens: header.tokens - 1 }, parts), "snapshot_corrupt");
  });

  test("KV of another arithmetic, or without room, is evaluated instead", async () => {
    const { engine } = await withSessions(KEY);
    const capsule = await engine.sessions.export("s", { kv: true });
    const variant = fakeEngine({ ...KEY, variant: "other" }).engine;
    assert.equal((await variant.sessions.import(capsule)).kvRefused, "other_variant");
    const small = fakeEngine({ ...KEY, kvBudgetBytes: 5 * FAKE_BYTES_PER_TOKEN }).engine;
    assert.equal((await small.sessions.import(capsule)).kvRefused, "no_room");
    assert.equal(small.sessions.inspect("s").tokens, 14);
  });

  test("another tenant, another key and no key open nothing", async () => {
    const { engine } = await withSessions(KEY);
    const capsule = await engine.sessions.export("s");
    await assert.rejects(engine.sessions.import(capsule, { tenant: "other" }), /key does not open it for this tenant/);
    await refused(fakeEngine({ sessionKey: "another secret, hard to guess" }).engine, capsule, "snapshot_corrupt");
    await refused(fakeEngine().engine, capsule, "snapshot_corrupt", /has no key/);
  });

  test("of another model, another format or too large is refused with its reason", async () => {
    const { engine } = await withSessions();
    const capsule = await engine.sessions.export("s");
    const hashes = { ...bundled.hashes, template: "other" };
    await refused(fakeEngine({ hashes }).engine, capsule, "snapshot_model_mismatch", /another chat template/);
    await refused(engine, capsule.map((byte, i) => i === 7 ? 2 : byte), "snapshot_version", /format 2/);
    await refused(fakeEngine({ maxCapsuleBytes: 100 }).engine, capsule, "snapshot_too_large");
    await refused(fakeEngine({ contextLength: 8 }).engine, capsule, "snapshot_too_large", /14 tokens/);
    await refused(fakeEngine({ vocabSize: 5 }).engine, capsule, "snapshot_corrupt", /token id/);
  });

  test("a taken id is refused, or replaced if so asked", async () => {
    const { engine } = await withSessions();
    const capsule = await engine.sessions.export("s");
    await assert.rejects(engine.sessions.import(capsule), SessionExistsError);
    await engine.sessions.import(capsule, { id: "chat", replace: true });
    assert.deepEqual(engine.sessions.inspect("chat").ids, engine.sessions.inspect("s").ids);
    assert.deepEqual((await next(engine, "chat")).ids, (await next(engine, "s")).ids);
  });

  test("an id that is none is not taken from a capsule; another may be given", async () => {
    const { engine } = await withSessions();
    const { header, blocks } = await parseCapsule(await engine.sessions.export("s"));
    const before = memory(engine);
    for (const session of ["..", "\ud800", "a\nb", "日".repeat(100)]) {
      const capsule = await joinCapsule({ ...header, session }, blocks.map(({ bytes }) => bytes));
      await assert.rejects(engine.sessions.import(capsule), (error) => {
        assert.ok(error instanceof InvalidRequestError, error as Error);
        assert.deepEqual([error.param, error.message.isWellFormed()], ["id", true]);
        return true;
      });
      assert.deepEqual(memory(engine), before);
      assert.equal((await engine.sessions.import(capsule, { id: "new", replace: true })).turn, 2);
      await engine.sessions.delete("new");
    }
  });

  test("cut anywhere, or with any bit changed, is refused and changes nothing", async () => {
    const { engine } = await withSessions(KEY);
    const capsule = await engine.sessions.export("s", { kv: true });
    for (let size = 0; size < capsule.length; size += 1 + (size % 13)) {
      await refused(engine, capsule.subarray(0, size), "snapshot_corrupt");
    }
    await fc.assert(
      fc.asyncProperty(fc.nat(capsule.length - 1), fc.nat(7), async (at, bit) => {
        const bad = Uint8Array.from(capsule);
        bad[at]! ^= 1 << bit;
        await refused(engine, bad, at === 7 ? "snapshot_version" : "snapshot_corrupt");
      }),
    );
  });

  test("turns of ids and of messages in one session are refused", async () => {
    const { engine, forged } = await withChat();
    assert.equal((await engine.sessions.import(await forged(() => {}), { id: "whole" })).turn, 2);
    await refused(engine, await forged(({ turns }) => turns[0]!.messagesEnd = 0), "snapshot_corrupt");
  });

  test("a message with ids of a later turn is refused", async () => {
    const { engine, forged } = await withChat();
    const early = forged(({ ids, messages }) => messages[0]!.span = [0, ids.length]);
    await refused(engine, await early, "snapshot_corrupt");
  });

  test("lengths that promise more than there is allocate nothing", async () => {
    const { engine } = await withSessions();
    const { header, blocks } = await parseCapsule(await engine.sessions.export("s"));
    const parts = blocks.map(({ bytes }) => bytes);
    const lying = structuredClone(header);
    lying.blocks[0]!.byteLength = 2 ** 40;
    await refused(engine, await joinCapsule(lying, parts), "snapshot_corrupt", /its blocks have/);
    await refused(engine, await joinCapsule({ ...header, kvTokens: 2 ** 40 }, parts), "snapshot_corrupt");
  });
});

test("a key that is easy to guess is refused", () => {
  assert.throws(() => fakeEngine({ sessionKey: "secret" }), RangeError);
});
