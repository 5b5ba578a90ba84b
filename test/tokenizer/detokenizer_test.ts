import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { Detokenizer, type DetokenizerOptions } from "../../src/tokenizer/detokenizer.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { anyIds, smol, smolText, tiny, tinyText } from "./models.ts";
import { tinyId, tinyJson } from "./tiny_sentencepiece.ts";

function piecesOf(tokenizer: Tokenizer, ids: readonly number[], options?: DetokenizerOptions): string[] {
  const detokenizer = new Detokenizer(tokenizer, options);
  return [...ids.map((id) => detokenizer.push(id)), detokenizer.flush()];
}

for (const [name, tokenizer, text] of [["byte-level", smol, smolText], ["SentencePiece", tiny, tinyText]] as const) {
  describe(`Detokenizer, ${name}`, () => {
    test("pieces together are decode(), control tokens or not", () => {
      fc.assert(
        fc.property(anyIds(tokenizer), fc.boolean(), (ids, skipSpecialTokens) => {
          const pieces = piecesOf(tokenizer, ids, { skipSpecialTokens });
          assert.equal(pieces.join(""), tokenizer.decode(ids, { skipSpecialTokens }));
          for (const piece of pieces) assert.ok(piece.isWellFormed());
        }),
        { numRuns: 2000 },
      );
    });

    test("no piece ends inside a character, and none waits longer than its character", () => {
      fc.assert(
        fc.property(text, (text) => {
          const ids = tokenizer.encode(text);
          const pieces = piecesOf(tokenizer, ids);
          assert.equal(pieces.join(""), text);
          if (!text.includes("\ufffd")) assert.ok(pieces.every((piece) => !piece.includes("\ufffd")));
          assert.equal(pieces.at(-1), "");
          // After each token: the characters whose bytes are all there.
          let [emitted, bytes] = ["", 0];
          ids.forEach((id, i) => {
            emitted += pieces[i]!;
            bytes += tokenizer.tokenBytes(id).length;
            const put = tokenizer === tiny ? bytes - 1 : bytes;
            const complete = Buffer.from(text).subarray(0, put).toString("utf8").replace(/\ufffd+$/, "");
            if (!text.includes("\ufffd")) assert.equal(emitted, complete);
          });
        }),
        { numRuns: 500 },
      );
    });

    test("a text that goes on keeps its leading space", () => {
      const before = tokenizer.encode("the");
      fc.assert(fc.property(anyIds(tokenizer), (ids) => {
        const whole = tokenizer.decode([...before, ...ids]);
        assert.equal(`the${piecesOf(tokenizer, ids, { continuesText: true }).join("")}`, whole);
      }));
    });
  });
}

describe("Detokenizer", () => {
  test("takes off as many spaces as the model puts before a text, in whatever pieces they come", () => {
    const strip = { type: "Strip", content: " ", start: 2, stop: 0 };
    const decoders = tinyJson.decoder.decoders.map((step) => step.type === "Strip" ? strip : step);
    const two = Tokenizer.fromJson({ ...tinyJson, decoder: { type: "Sequence", decoders } }, {});
    const space = tinyId("▁");
    for (
      const ids of [[space], [space, space], [space, space, space, tinyId("a")], [space, tinyId("▁▁"), tinyId("a")]]
    ) {
      assert.equal(piecesOf(two, ids).join(""), two.decode(ids));
    }
    assert.equal(two.decode([space, space, space, tinyId("a")]), " a");
  });

  test("flush() marks a character that was never finished", () => {
    const detokenizer = new Detokenizer(tiny);
    assert.equal(detokenizer.push(tinyId("▁the")), "the");
    assert.equal(detokenizer.push(tinyId("<0xE6>")), "");
    assert.equal(detokenizer.push(tinyId("<0x97>")), "");
    assert.equal(detokenizer.flush(), "\ufffd");
    assert.equal(detokenizer.flush(), "");
  });

  test("a broken character does not hold up the next one", () => {
    const ids = ["<0xE6>", "a", "<0xF0>", "<0x9F>", "日"].map(tinyId);
    assert.deepEqual(piecesOf(tiny, ids), ["", "\ufffda", "", "", "\ufffd日", ""]);
  });

  test("what is no text does not begin it", () => {
    assert.deepEqual(piecesOf(tiny, [tiny.vocabSize, 1, tinyId("▁the"), tinyId("▁the")]), ["", "", "the", " the", ""]);
  });

  test("control tokens come out when asked", () => {
    assert.deepEqual(piecesOf(smol, [2, 905]), ["", " world", ""]);
    assert.deepEqual(piecesOf(smol, [2, 905], { skipSpecialTokens: false }), ["<|im_end|>", " world", ""]);
  });
});
