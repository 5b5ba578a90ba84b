import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { GenerateEvent, GenerateRequest, SessionRef } from "../../src/engine/generate_request.ts";
import {
  InvalidRequestError,
  OutOfMemoryError,
  SessionBusyError,
  SessionNotFoundError,
  TurnMismatchError,
  TurnSupersededError,
} from "../../src/errors.ts";
import { collect, fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";

const user = (content: string) => [{ role: "user", content }];
const EOS = 2;

/** A fake model that says these words, one text a turn. */
function saying(texts: readonly string[], options: FakeEngineOptions = {}) {
  const { tokenizer } = fakeEngine().engine;
  const script = texts.flatMap((text) => [...tokenizer.encode(text), EOS]);
  return fakeEngine({ next: () => script.shift() ?? EOS, ...options });
}

/** One turn of session `s`. */
function turn(
  engine: ReturnType<typeof fakeEngine>["engine"],
  prompt: GenerateRequest["prompt"],
  session: Partial<SessionRef> = {},
  rest: Partial<GenerateRequest> = {},
) {
  return collect(engine.generate({ prompt, maxTokens: 20, session: { id: "s", ...session }, ...rest }));
}

/** Reads until so many tokens have come, then cancels. */
async function cancelAfter(events: AsyncIterable<GenerateEvent> & { cancel(): void }, tokens: number) {
  let count = 0;
  await assert.rejects(async () => {
    for await (const _ of events) if (++count === tokens) events.cancel();
  }, { name: "AbortError" });
}

describe("append", () => {
  test("sends new messages only, and evaluates the prompt that the whole history gives", async () => {
    const texts = ["Fine, thanks", "Not at all", "Never"];
    const [appending, replaying] = [saying(texts), saying(texts)];
    const history: { role: string; content: string }[] = [];
    for (const [i, question] of ["How are you", "Do you mind", "When then"].entries()) {
      history.push(...user(question));
      const appended = await turn(appending.engine, { messages: user(question) }, { mode: "append", ifTurn: i });
      const replayed = await turn(replaying.engine, { messages: history });
      history.push({ role: "assistant", content: replayed.text });
      assert.equal(appended.text, texts[i]);
      assert.deepEqual(appended.end.usage, replayed.end.usage);
    }
    const [one, other] = [appending, replaying].map(({ engine }) => engine.sessions.inspect("s"));
    assert.deepEqual([one!.ids, one!.messages], [other!.ids, other!.messages]);
    assert.deepEqual(one!.messages.map(({ role, content }) => ({ role, content })), history);
  });

  test("text goes on text, without a new beginning", async () => {
    const { engine } = fakeEngine();
    const first = await turn(engine, { text: "One two" }, {}, { maxTokens: 3, ignoreEos: true });
    await turn(engine, { text: " three" }, { mode: "append" }, { maxTokens: 0 });
    assert.deepEqual(engine.sessions.inspect("s").ids, [
      ...engine.tokenizer.encode("One two", { addBos: true }),
      ...first.ids,
      ...engine.tokenizer.encode(" three"),
    ]);
  });

  test("never begins a conversation that was meant to go on", async () => {
    const { engine, backend } = fakeEngine();
    await assert.rejects(turn(engine, { messages: user("And then") }, { mode: "append" }), SessionNotFoundError);
    await turn(engine, { messages: user("Hello") }, { mode: "append", ifTurn: 0 });
    await engine.sessions.delete("s");
    await assert.rejects(turn(engine, { messages: user("And then") }, { mode: "append" }), /it is deleted/);
    assert.deepEqual(engine.sessions.list(), []);
    assert.equal(backend.caches.size, 0);
  });

  test("refuses what does not fit what is there", async () => {
    const { engine } = saying(["Fine"]);
    await turn(engine, { messages: user("Hello") });
    for (const prompt of [{ ids: [1] }, { text: "more" }, { messages: [] }]) {
      await assert.rejects(turn(engine, prompt, { mode: "append" }), InvalidRequestError);
    }
    await assert.rejects(
      turn(engine, { messages: user("x") }, { mode: "append" }, { cache: "off" }),
      /without the cache/,
    );
    assert.equal(engine.sessions.inspect("s").turn, 1);
  });

  test("a session whose KV was evicted gives the same tokens", async () => {
    const [hot, cold] = [fakeEngine(), fakeEngine()];
    for (const { engine } of [hot, cold]) await turn(engine, { messages: user("Hello") }, {}, { ignoreEos: true });
    await cold.engine.sessions.evict("s");
    const answers = [];
    for (const { engine } of [hot, cold]) {
      answers.push(await turn(engine, { messages: user("More") }, { mode: "append" }));
    }
    assert.deepEqual(answers[0]!.ids, answers[1]!.ids);
    assert.equal(answers[1]!.end.usage.cachedTokens, 0);
    assert.equal(answers[1]!.end.usage.cache.reason, "evicted");
  });
});

describe("a stop string", () => {
  test("leaves ids that say what was shown, and KV of the tokens before it", async () => {
    const { engine } = saying(["one two three four", "Yes"]);
    const { text, ids } = await turn(engine, { messages: user("Count") }, {}, { stop: ["o th"] });
    assert.equal(text, "one tw");
    const { messages, ids: kept, turns } = engine.sessions.inspect("s");
    const { replyStart } = turns[0]!;
    assert.equal(engine.tokenizer.decode(kept.slice(replyStart)), "one tw");
    assert.deepEqual(messages.at(-1), { role: "assistant", content: "one tw", span: [replyStart, kept.length] });
    const shared = ids.filter((id, i) => kept[replyStart + i] === id).length;
    assert.ok(shared > 0 && shared < ids.length);
    assert.equal(engine.sessions.inspect("s").cachedTokens, replyStart + shared);
    const next = await turn(engine, { messages: user("Go on") }, { mode: "append" });
    assert.equal(next.end.usage.cachedTokens, replyStart + shared);
  });
});

describe("a turn that does not end well", () => {
  test("leaves the session as it was: cancelled, failed, refused", async () => {
    const { engine, backend } = fakeEngine({ contextLength: 200 });
    await turn(engine, { ids: [5, 6, 7] }, {}, { maxTokens: 4, ignoreEos: true });
    const words = () => {
      const { ids, messages, turns, turn, busy } = engine.sessions.inspect("s");
      return { ids, messages, turns, turn, busy };
    };
    const before = words();
    const same = () => {
      assert.deepEqual(words(), before);
      // The KV may hold the last sampled token by now, and nothing that is not in the transcript.
      assert.ok(engine.sessions.inspect("s").cachedTokens <= before.ids.length);
    };
    const request = { prompt: { ids: [8, 9] }, ignoreEos: true, session: { id: "s", mode: "append" as const } };
    await cancelAfter(await engine.start(request), 3);
    same();
    backend.failNext = new Error("boom");
    await assert.rejects(collect(engine.generate(request)), /boom/);
    same();
    await assert.rejects(collect(engine.generate({ ...request, maxTokens: 1000 })), { name: "ContextOverflowError" });
    same();
  });

  test("for want of memory costs the KV, not the words", async () => {
    const { engine, backend } = fakeEngine();
    await turn(engine, { ids: [5, 6, 7] }, {}, { maxTokens: 4, ignoreEos: true });
    const { ids } = engine.sessions.inspect("s");
    backend.failNext = new OutOfMemoryError("no room in the heap");
    await assert.rejects(turn(engine, { ids: [8] }, { mode: "append" }), OutOfMemoryError);
    const after = engine.sessions.inspect("s");
    assert.deepEqual([after.ids, after.state, backend.caches.size], [ids, "cold", 0]);
    const next = await turn(engine, { ids: [8] }, { mode: "append" }, { maxTokens: 1, ignoreEos: true });
    assert.equal(next.ids[0], backend.next([...ids, 8]));
  });

  test("is kept as far as it came, if so asked", async () => {
    const { engine } = saying(["one two three four five", "Yes"]);
    await cancelAfter(
      await engine.start({ prompt: { messages: user("Count") }, session: { id: "s", onAbort: "keep_partial" } }),
      2,
    );
    const { messages, turns, turn: count } = engine.sessions.inspect("s");
    assert.deepEqual([count, turns[0]!.finishReason], [1, "aborted"]);
    const { content } = messages.at(-1)!;
    assert.ok("one two three".startsWith(content) && content.length > 0, content);
    const next = await turn(engine, { messages: user("Go on") }, { mode: "append" });
    assert.equal(next.end.usage.cache.turn, 2);
  });
});

describe("ifTurn", () => {
  test("lets a turn happen only at the turn it names", async () => {
    const { engine, backend } = saying(["Yes", "No"]);
    await turn(engine, { messages: user("A") }, { ifTurn: 0 });
    const passes = backend.passes.length;
    await assert.rejects(turn(engine, { messages: user("B") }, { mode: "append", ifTurn: 0 }), (error) => {
      assert.ok(error instanceof TurnMismatchError);
      assert.deepEqual([error.code, error.turn, error.wanted], ["turn_mismatch", 1, 0]);
      return true;
    });
    assert.equal(backend.passes.length, passes);
    await turn(engine, { messages: user("B") }, { mode: "append", ifTurn: 1 });
  });
});

describe("onBusy", () => {
  const long = { prompt: { ids: [1, 2, 3] }, maxTokens: 8, ignoreEos: true };

  test("rejects, waits in order, or supersedes", async () => {
    const { engine } = fakeEngine({ delayMs: 2 });
    const session = { id: "s" };
    const first = await engine.start({ ...long, session });
    const reading = collect(first);
    await assert.rejects(engine.start({ ...long, session }), SessionBusyError);
    const append = { id: "s", mode: "append" as const };
    const waiting = [4, 5].map((id) =>
      collect(engine.generate({ ...long, prompt: { ids: [id] }, session: { ...append, onBusy: "queue" } }))
    );
    const turns = (await Promise.all([reading, ...waiting])).map(({ end }) => end.usage.cache.turn);
    assert.deepEqual(turns, [1, 2, 3]);

    const superseded = collect(await engine.start({ ...long, prompt: { ids: [7] }, session: append }));
    const refused = assert.rejects(superseded, TurnSupersededError);
    const supersede = { ...append, onBusy: "supersede" as const };
    const newer = await collect(engine.generate({ ...long, prompt: { ids: [8] }, session: supersede }));
    await refused;
    assert.equal(newer.end.usage.cache.turn, 4);
  });

  test("who waits can leave", async () => {
    const { engine } = fakeEngine({ delayMs: 2 });
    const running = collect(await engine.start({ ...long, session: { id: "s" } }));
    const abort = new AbortController();
    const waiting = engine.start({ ...long, session: { id: "s", onBusy: "queue" } }, { signal: abort.signal });
    abort.abort(new Error("client left"));
    await assert.rejects(waiting, /client left/);
    await running;
    assert.equal(engine.sessions.inspect("s").busy, false);
  });
});

describe("regenerate", () => {
  test("answers the last turn again, in its place", async () => {
    const { engine } = saying(["Yes", "No", "Maybe"]);
    await turn(engine, { messages: user("A") });
    await turn(engine, { messages: user("B") }, { mode: "append" });
    const before = engine.sessions.inspect("s");
    const again = await turn(engine, { messages: [] }, { mode: "regenerate" });
    const after = engine.sessions.inspect("s");
    assert.deepEqual([again.text, again.end.usage.cache.turn, after.turn], ["Maybe", 2, 2]);
    assert.deepEqual(after.messages.map(({ content }) => content), ["A", "Yes", "B", "Maybe"]);
    assert.equal(after.turns[1]!.replyStart, before.turns[1]!.replyStart);
    await assert.rejects(turn(engine, { messages: user("C") }, { mode: "regenerate" }), InvalidRequestError);
  });
});

describe("usage.cache", () => {
  test("says what was reused, and why not more", async () => {
    const { engine } = saying(["Yes", "No", "So", "Ah", "Oh", "Eh"], {
      warmBudgetBytes: 2 ** 20,
      parking: { pays: () => true },
    });
    const first = await turn(engine, { messages: user("A") });
    assert.deepEqual(
      { ...first.end.usage.cache, written: undefined, bytes: undefined },
      {
        reused: 0,
        shared: 0,
        fromPublic: 0,
        written: undefined,
        reason: "first_use",
        bytes: undefined,
        stateBefore: "cold",
        turn: 1,
      },
    );
    const second = await turn(engine, { messages: user("B") }, { mode: "append" });
    const { cache, promptTokens } = second.end.usage;
    assert.deepEqual([cache.reason, cache.stateBefore, cache.firstDifference], ["none", "hot", undefined]);
    assert.equal(cache.written, promptTokens - cache.reused + second.ids.length - 1 + 1);
    assert.equal(cache.bytes, engine.sessions.stats().hotBytes);

    await engine.sessions.park("s");
    const third = (await turn(engine, { messages: user("C") }, { mode: "append" })).end.usage.cache;
    assert.deepEqual([third.reason, third.stateBefore], ["restored", "warm"]);
    await engine.sessions.evict("s");
    const fourth = (await turn(engine, { messages: user("D") }, { mode: "append" })).end.usage.cache;
    assert.deepEqual([fourth.reason, fourth.stateBefore, fourth.reused], ["evicted", "cold", 0]);

    const messages = engine.sessions.inspect("s").messages.map(({ role, content }) => ({ role, content }));
    messages[2] = { role: "user", content: "Bee" };
    const edited = (await turn(engine, { messages: messages.slice(0, 5) })).end.usage.cache;
    assert.equal(edited.reason, "edited_at_message");
    assert.deepEqual(edited.firstDifference, { token: edited.reused, message: 2 });
    assert.equal(edited.turn, 2);

    const ids = engine.sessions.inspect("s").ids;
    const other = (await turn(engine, { ids: [...ids.slice(0, 4), 99, ...ids.slice(4)] })).end.usage.cache;
    assert.deepEqual([other.reason, other.firstDifference], ["token_mismatch", { token: 4 }]);
  });

  test("counts what was evaluated when the session is deleted meanwhile, whatever it had before", async () => {
    const { engine, backend } = fakeEngine();
    backend.info.kvShares = true;
    const prompt = { ids: Array.from({ length: 40 }, (_, i) => 1 + i) };
    for (const id of ["s", "new"]) {
      await turn(engine, prompt, {}, { ignoreEos: true });
      const running = await engine.start({ prompt, maxTokens: 3, ignoreEos: true, session: { id } });
      assert.equal(running.cachedTokens, 39);
      await engine.sessions.delete(id);
      const { written, reused, bytes } = (await collect(running)).end.usage.cache;
      // The last token is not evaluated any more.
      assert.deepEqual([reused, written, bytes], [39, 1 + 2, 0]);
    }
    await engine.sessions.delete("s");
    assert.equal(backend.caches.size, 0);
  });
});
