import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import fc from "fast-check";
import { BackendUnavailableError, TokenizerError } from "../../src/errors.ts";
import { BackgroundTokenizer, type BackgroundTokenizerOptions } from "../../src/tokenizer/background_tokenizer.ts";
import type { TextPart } from "../../src/tokenizer/encoding_protocol.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { anyText, smol, smolConfig, smolJson, tiny } from "./models.ts";
import { tinyConfig, tinyId, tinyJson } from "./tiny_sentencepiece.ts";

const started: BackgroundTokenizer[] = [];
after(async () => {
  for (const one of started) await one.close();
});

const filesOf = (json: unknown, config: unknown) => ({
  tokenizerJson: JSON.stringify(json),
  tokenizerConfig: JSON.stringify(config),
});

/** Everything goes to the thread, unless told otherwise. */
function background(json: unknown, config: unknown, options: BackgroundTokenizerOptions = {}): BackgroundTokenizer {
  const data = () => filesOf(json, config);
  const made = new BackgroundTokenizer(Tokenizer.fromJson(json, config), data, { hereLength: 0, ...options });
  started.push(made);
  return made;
}

/** A tokenizer that tries 2^n ways to cut n letters "a" without an "!" behind them. */
const hangingJson = {
  ...tinyJson,
  pre_tokenizer: { type: "Split", pattern: { Regex: "(a+a?)+!" }, behavior: "Isolated", invert: false },
};
const HANGS = "a".repeat(60);
const LIMIT_MS = 300;

const part = (text: string, continuesText = true): TextPart => ({ text, continuesText });
const isTooSlow = (error: unknown) => {
  assert.ok(error instanceof TokenizerError);
  assert.match(
    error.message,
    /^Cannot encode a text with the model's tokenizer: 60 characters took longer than 300 ms/,
  );
  return true;
};

describe("BackgroundTokenizer", () => {
  test("gives the ids that the tokenizer gives, of any texts and wherever they are encoded", async () => {
    for (const [tokenizer, json, config] of [[tiny, tinyJson, tinyConfig], [smol, smolJson, smolConfig]] as const) {
      const [there, here] = [background(json, config), background(json, config, { hereLength: Infinity })];
      const parts = fc.array(fc.record({ text: anyText, continuesText: fc.boolean() }), { maxLength: 4 });
      await fc.assert(
        fc.asyncProperty(parts, async (texts) => {
          const ids = texts.map(({ text, continuesText }) => tokenizer.encode(text, { continuesText }));
          assert.deepEqual(await there.encode(texts), ids);
          assert.deepEqual(await here.encode(texts), ids);
        }),
        { numRuns: 25 },
      );
    }
  });

  test("answers each of many in its turn", async () => {
    const there = background(tinyJson, tinyConfig);
    const texts = ["the", "hell", "the world", "abc", "the"];
    const ids = await Promise.all(texts.map((text) => there.encode([part(text)])));
    assert.deepEqual(ids, texts.map((text) => [tiny.encode(text, { continuesText: true })]));
  });

  test("leaves the calling thread to others while it encodes", async () => {
    const text = "The harbour was quiet that morning, and the boats lay still. ".repeat(17_000);
    const there = background(smolJson, smolConfig);
    await there.encode([part("a")]);
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 5);
    const [ids] = await there.encode([part(text)]);
    clearInterval(ticking);
    assert.ok(ticks >= 10, `${ticks} ticks while ${text.length} characters became ${ids!.length} tokens`);
    assert.ok(ids!.length > 100_000);
  });

  test("ends what takes too long, with its thread, and goes on with the next", async () => {
    const there = background(hangingJson, tinyConfig, { limitMs: LIMIT_MS });
    const results = await Promise.allSettled(["the", HANGS, "the"].map((text) => there.encode([part(text)])));
    assert.deepEqual(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    assert.ok(isTooSlow((results[1] as PromiseRejectedResult).reason));
    assert.deepEqual(await there.encode([part("the")]), [tiny.encode("the")]);
  });

  test("who stops waiting is free at once, and holds up the next no longer than the limit", async () => {
    let starts = 0;
    const data = () => (starts++, filesOf(hangingJson, tinyConfig));
    const there = new BackgroundTokenizer(Tokenizer.fromJson(hangingJson, tinyConfig), data, {
      hereLength: 0,
      limitMs: LIMIT_MS,
    });
    started.push(there);
    await there.encode([part("the")]);
    const [stop, stopWaiting] = [new AbortController(), new AbortController()];
    const running = there.encode([part(HANGS)], stop.signal);
    const waiting = there.encode([part(HANGS)], stopWaiting.signal);
    const next = there.encode([part("the")]);
    let nextCame = false;
    next.then(() => nextCame = true, () => {});
    // The first is begun by now, and not at its end.
    await new Promise((resolve) => setTimeout(resolve, 50));
    stop.abort();
    stopWaiting.abort(new Error("another reason"));
    await assert.rejects(running, { name: "AbortError" });
    await assert.rejects(waiting, /^Error: another reason$/);
    assert.equal(nextCame, false, "the thread is busy still");
    assert.deepEqual(await next, [[tinyId("▁the")]]);
    assert.equal(starts, 2, "what waited and was stopped did not run: it would have taken a thread along too");
    await assert.rejects(there.encode([part("the")], AbortSignal.abort()), { name: "AbortError" });
  });

  test("says that its thread is gone, and starts another for the next", async () => {
    const files = ["{", JSON.stringify(tinyJson)];
    const data = () => ({ tokenizerJson: files.shift()!, tokenizerConfig: JSON.stringify(tinyConfig) });
    const there = new BackgroundTokenizer(tiny, data, { hereLength: 0 });
    started.push(there);
    await assert.rejects(there.encode([part("the")]), (error: unknown) => {
      assert.ok(error instanceof BackendUnavailableError);
      assert.match(error.message, /^Cannot encode a text: the encoding thread is gone, it failed: /);
      return true;
    });
    assert.deepEqual(await there.encode([part("the")]), [[tinyId("▁the")]]);
    await there.close();
    files.push(JSON.stringify(tinyJson));
    assert.deepEqual(await there.encode([part("the")]), [[tinyId("▁the")]], "closed, it starts again");
  });

  test("ends its thread when nothing came for a while, and starts it again", async () => {
    let starts = 0;
    const data = () => (starts++, filesOf(tinyJson, tinyConfig));
    const there = new BackgroundTokenizer(tiny, data, { hereLength: 0, idleMs: 100 });
    started.push(there);
    const encode = async () => assert.deepEqual(await there.encode([part("the")]), [[tinyId("▁the")]]);
    await encode();
    await encode();
    assert.equal(starts, 1);
    for (let i = 2; i <= 3; i++) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      await Promise.all([encode(), encode()]);
      assert.equal(starts, i);
    }
  });

  test("keeps together what is short, and starts no thread for it", async () => {
    const data = () => assert.fail("a thread was started");
    const here = new BackgroundTokenizer(tiny, data, { hereLength: 6 });
    assert.deepEqual(await here.encode([part("the"), part("abc")]), [[tinyId("▁the")], tiny.encode("abc")]);
    assert.deepEqual(await here.encode([]), []);
    await assert.rejects(here.encode([part("the"), part("abcd")]), /a thread was started/);
  });
});
