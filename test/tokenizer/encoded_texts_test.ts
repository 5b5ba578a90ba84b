import assert from "node:assert/strict";
import { test } from "node:test";
import { EncodedTexts } from "../../src/tokenizer/encoded_texts.ts";
import type { TextPart } from "../../src/tokenizer/encoding_protocol.ts";

const part = (text: string, continuesText = true): TextPart => ({ text, continuesText });

/** A text's letters, and what was asked for so far. */
function letters() {
  const asked: string[] = [];
  const encode = (texts: readonly TextPart[]) => {
    asked.push(...texts.map(({ text }) => text));
    return Promise.resolve(texts.map(({ text }) => [...text].map((letter) => letter.codePointAt(0)!)));
  };
  return { asked, encode };
}

/** Ids that tell how often something was asked for. */
function counter() {
  let count = 0;
  return (texts: readonly TextPart[]) => Promise.resolve(texts.map(() => [++count]));
}

test("a text is encoded once an owner, and never for another", async () => {
  const known = new EncodedTexts();
  const { asked, encode } = letters();
  for (const owner of ["a", "b", "a\0", "a"]) {
    assert.deepEqual(await known.ids(owner, [part("hi"), part("\0hi")], encode), [[104, 105], [0, 104, 105]]);
  }
  assert.deepEqual(asked, ["hi", "\0hi", "hi", "\0hi", "hi", "\0hi"]);
});

test("only what is not known is asked for, each once, and comes in the order of the texts", async () => {
  const known = new EncodedTexts();
  const { asked, encode } = letters();
  await known.ids("a", [part("b")], encode);
  const texts = ["c", "b", "c", "d", "b"];
  const ids = await known.ids("a", texts.map((text) => part(text)), encode);
  assert.deepEqual(ids, texts.map((text) => [text.codePointAt(0)!]));
  assert.deepEqual(asked, ["b", "c", "d"]);
});

test("what a prompt begins with is another text than the same words later", async () => {
  const known = new EncodedTexts();
  const encode = counter();
  assert.deepEqual(await known.ids("a", [part("hi", false), part("hi", true)], encode), [[1], [2]]);
  assert.deepEqual(await known.ids("a", [part("hi", true), part("hi", false)], encode), [[2], [1]]);
});

test("what an owner said can be forgotten", async () => {
  const known = new EncodedTexts();
  const encode = counter();
  for (const owner of ["a", "ab", "a"]) await known.ids(owner, [part("hi")], encode);
  known.forget("a");
  for (const [owner, count] of [["a", 3], ["ab", 2]] as const) {
    assert.deepEqual(await known.ids(owner, [part("hi")], encode), [[count]]);
  }
});

test("what is forgotten while it is encoded stays forgotten", async () => {
  const known = new EncodedTexts();
  const encoding = Promise.withResolvers<number[][]>();
  const ids = known.ids("a", [part("hi")], () => encoding.promise);
  known.forget("a");
  encoding.resolve([[7]]);
  assert.deepEqual(await ids, [[7]]);
  assert.deepEqual(await known.ids("a", [part("hi")], counter()), [[1]]);
});

test("a failure is not remembered", async () => {
  const known = new EncodedTexts();
  await assert.rejects(known.ids("a", [part("hi")], () => Promise.reject(new Error("no"))), /^Error: no$/);
  assert.deepEqual(await known.ids("a", [part("hi")], counter()), [[1]]);
});

test("what is remembered is bounded, least recently used first", async () => {
  const known = new EncodedTexts(1000);
  const encode = counter();
  const ids = async (text: string) => (await known.ids("a", [part(text)], encode))[0];
  for (let i = 0; i < 100; i++) await ids(`text ${i}`);
  assert.deepEqual(await ids("text 99"), [100]);
  assert.deepEqual(await ids("text 0"), [101]);
  await ids("x".repeat(1000));
  assert.deepEqual(await ids("x".repeat(1000)), [103], "too long to keep");
});
