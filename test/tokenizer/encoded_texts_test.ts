import assert from "node:assert/strict";
import { test } from "node:test";
import { EncodedTexts } from "../../src/tokenizer/encoded_texts.ts";

test("a text is encoded once an owner, and never for another", () => {
  const known = new EncodedTexts();
  const encoded: string[] = [];
  const encode = (text: string) => (encoded.push(text), [...text].map((letter) => letter.codePointAt(0)!));
  for (const owner of ["a", "b", "a\0", "a"]) {
    assert.deepEqual(known.ids(owner, "hi", encode), [104, 105]);
    assert.deepEqual(known.ids(owner, "\0hi", encode), [0, 104, 105]);
  }
  assert.deepEqual(encoded, ["hi", "\0hi", "hi", "\0hi", "hi", "\0hi"]);
});

test("what an owner said can be forgotten", () => {
  const known = new EncodedTexts();
  let count = 0;
  for (const owner of ["a", "ab", "a"]) known.ids(owner, "hi", () => [++count]);
  known.forget("a");
  assert.deepEqual(["a", "ab"].map((owner) => known.ids(owner, "hi", () => [++count])), [[3], [2]]);
});

test("what is remembered is bounded, least recently used first", () => {
  const known = new EncodedTexts(1000);
  let count = 0;
  const encode = () => [++count];
  for (let i = 0; i < 100; i++) known.ids("a", `text ${i}`, encode);
  assert.deepEqual(known.ids("a", "text 99", encode), [100]);
  assert.deepEqual(known.ids("a", "text 0", encode), [101]);
  known.ids("a", "x".repeat(1000), encode);
  assert.deepEqual(known.ids("a", "x".repeat(1000), encode), [103], "too long to keep");
});
