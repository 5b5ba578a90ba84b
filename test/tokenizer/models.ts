import { readFile } from "node:fs/promises";
import fc from "fast-check";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { tinyConfig, tinyJson } from "./tiny_sentencepiece.ts";

const read = async (name: string) =>
  JSON.parse(await readFile(new URL(`../../models/smollm2-135m-instruct/${name}`, import.meta.url), "utf8"));

export const smolJson = await read("tokenizer.json");
export const smolConfig = await read("tokenizer_config.json");
/** Byte-level BPE: the bundled model. */
export const smol = Tokenizer.fromJson(smolJson, smolConfig);
/** SentencePiece with byte fallback. */
export const tiny = Tokenizer.fromJson(tinyJson, tinyConfig);

/** What the bundled model has no token for: six control characters, and planes of Unicode with no characters. */
// deno-lint-ignore no-control-regex
const TOKENLESS = /[\x04\x06\x13\x14\x16\x1d\u{40000}-\u{bffff}]/gu;

/** Well-formed text: words, spaces, control tokens, any Unicode. */
export const anyText = fc.array(
  fc.oneof(
    fc.string({ unit: "binary", maxLength: 6 }),
    fc.string({ unit: "grapheme", maxLength: 6 }),
    fc.constantFrom(
      " ",
      "   ",
      "\n",
      "\t\n",
      "hello",
      " the",
      "日本",
      "👨‍👩‍👧",
      "e\u0301",
      "\ufeff",
      "\u0085",
      "12345",
      "١٢",
      "don't",
    ),
    fc.constantFrom(...smol.specialTokens, ...tiny.specialTokens, "<|im_", "end|>", "<0x41>"),
  ),
  { maxLength: 8 },
).map((parts) => parts.join(""));

export const smolText = anyText.map((text) => text.replace(TOKENLESS, ""));
/** A U+2581 reads as a space afterwards, as in every SentencePiece model. */
export const tinyText = anyText.map((text) => text.replaceAll("▁", ""));

/** Ids of all kinds: ordinary ones, control tokens, half characters. */
export const anyIds = (tokenizer: Tokenizer) => {
  const bytes = Array.from({ length: tokenizer.vocabSize }, (_, id) => id)
    .filter((id) => tokenizer.tokenText(id).includes("\ufffd"));
  return fc.array(fc.oneof(fc.nat(tokenizer.vocabSize - 1), fc.constantFrom(...bytes)), { maxLength: 24 });
};
