/**
 * An invented vocabulary of SentencePiece kind: pieces of English-like words, each made by merging two shorter ones.
 * Order as in Llama's and Phi-3's: `<unk>`, `<s>`, `</s>`, 256 bytes, merged pieces from the commonest on, single
 * characters.
 */
import { ModelFileError } from "../src/errors.ts";

/** U+2581, which stands for a space. */
export const SPACE = "▁";
/** Id of the first of 256 byte tokens. */
export const FIRST_BYTE = 3;
/** Id of the first merged piece. */
export const FIRST_MERGED = FIRST_BYTE + 256;

/** A vocabulary of so many tokens, by id, and the merges that make it. */
export interface Vocabulary {
  tokens: readonly string[];
  /** `"left right"`, the first that applies wins. */
  merges: readonly string[];
}

/** Commonest first; a piece costs the product of its parts' places, as Zipf's law would have it. */
const WORDS = ("the of and to in is that it for was on are as with be at one have this from by not but what all were " +
  "we when your can said there use an each which she do how their if will up other about out many then them these so " +
  "some her would make like him into time has look two more write go see number no way could people my than first " +
  "water been call who its now find long down day did get come made may part capital city country world question " +
  "answer because language model user hello please").split(" ");
const ONSETS =
  ("t s th w b c m h p d f r l n g st sh ch wh y pr tr gr cr br fr pl cl fl bl sp qu k j v dr sc sl sm sn " +
    "sw str thr tw spr z").split(" ");
const VOWELS = "e a i o u ea ou ai ee oo y io ie au oi ue".split(" ");
const CODAS = ("n r s t d l m ng nd st nt rs ck ll ss ts ns rd th ch rt ct sh mp p rn ld ght rm k g b f x ft pt nk ve" +
  " rk lt").split(" ");

const ASCII = Array.from({ length: 95 }, (_, i) => String.fromCharCode(32 + i)).filter((char) => char !== " ");
const OTHER_CHARACTERS = [
  ..."éèêëàâäáåãçñóòôöõíìîïúùûüýßæøœÉÈÀÄÅÇÑÖÜØ",
  ..."αβγδεζηθικλμνξοπρστυφχψω",
  ..."абвгдежзийклмнопрстуфхцчшщъыьэюя",
  ..."–—‘’“”…•°±×÷€£¥§©®→←",
  ..."日月人中国大小上下一二三ありがとうのは",
];

/**
 * Makes a vocabulary of `size` tokens, always the same for the same size.
 * @throws {ModelFileError} when there is no room for bytes and characters, or nothing to fill the room with
 */
export function inventVocabulary(size: number): Vocabulary {
  const characters = [SPACE, ..."etaoinshrdlu", ...ASCII, ...OTHER_CHARACTERS].filter(isFirst);
  const merged = commonestPieces(new Set(characters), size - FIRST_MERGED - characters.length);
  const bytes = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
  const tokens = ["<unk>", "<s>", "</s>", ...bytes, ...merged, ...characters];
  const ids = new Map(tokens.map((token, id) => [token, id]));
  // Of each piece, every way to make it, so that what comes out hangs on the pieces' order alone, as in SentencePiece.
  const merges = merged.flatMap((piece) =>
    splits(piece)
      .filter((pair) => pair.every((part) => ids.has(part)))
      .sort(([a, b], [c, d]) => ids.get(a)! - ids.get(c)! || ids.get(b)! - ids.get(d)!)
      .map(([left, right]) => `${left} ${right}`)
  );
  return { tokens, merges };
}

function commonestPieces(known: ReadonlySet<string>, count: number): string[] {
  if (count < 1) throw new ModelFileError(`Cannot invent a vocabulary: ${count} places left, wanted at least one`);
  const candidates = [...candidateCosts()].sort(([a, costA], [b, costB]) =>
    costA - costB || a.length - b.length || (a < b ? -1 : 1)
  );
  const all = new Set(known);
  const pieces: string[] = [];
  for (const [piece] of candidates) {
    if (pieces.length === count) break;
    if (!splits(piece).some(([left, right]) => all.has(left) && all.has(right))) continue;
    all.add(piece);
    pieces.push(piece);
  }
  if (pieces.length < count) {
    throw new ModelFileError(`Cannot invent a vocabulary: ${pieces.length} pieces, wanted ${count}`);
  }
  return pieces;
}

/** What could become a piece, of two characters or more, with its cost. */
function candidateCosts(): Map<string, number> {
  const costs = new Map<string, number>();
  const offer = (piece: string, cost: number) => {
    if (piece.length > 1) costs.set(piece, Math.min(costs.get(piece) ?? Infinity, cost));
  };
  /** A part and all that it begins with, with and without a space before and a capital. */
  const offerAll = (piece: string, cost: number) => {
    for (let end = 1; end <= piece.length; end++) {
      const start = piece.slice(0, end);
      const capital = start[0]!.toUpperCase() + start.slice(1);
      offer(start, cost);
      offer(SPACE + start, 2 * cost);
      offer(capital, 12 * cost);
      offer(SPACE + capital, 8 * cost);
    }
  };
  for (let run = 2; run <= 16; run *= 2) offer(SPACE.repeat(run), run);
  WORDS.forEach((word, place) => {
    for (let end = 1; end <= word.length; end++) offer(SPACE + word.slice(0, end), 2 * (place + 1));
  });
  const placed = (parts: readonly string[]) => parts.map((part, place): [string, number] => [part, place + 1]);
  for (const [coda, codaCost] of placed(CODAS)) offerAll(coda, codaCost);
  for (const [vowel, vowelCost] of placed(VOWELS)) {
    offerAll(vowel, vowelCost);
    for (const [coda, codaCost] of placed(CODAS)) offerAll(vowel + coda, vowelCost * codaCost);
    for (const [onset, onsetCost] of placed(ONSETS)) {
      offerAll(onset, onsetCost);
      offerAll(onset + vowel, onsetCost * vowelCost);
      for (const [coda, codaCost] of placed(CODAS)) offerAll(onset + vowel + coda, onsetCost * vowelCost * codaCost);
    }
  }
  return costs;
}

/** Each way to cut a piece in two. */
function splits(piece: string): [left: string, right: string][] {
  return Array.from({ length: piece.length - 1 }, (_, i) => [piece.slice(0, i + 1), piece.slice(i + 1)]);
}

function isFirst<T>(item: T, index: number, items: readonly T[]): boolean {
  return items.indexOf(item) === index;
}
