/**
 * Texts to cut into tokens, hard ones included: the same list on every run.
 *
 * Characters come from long-settled parts of Unicode: implementations carry tables of different Unicode versions
 * and rightly disagree on newer letters.
 */

/** mulberry32: https://gist.github.com/tommyettinger/46a874533244883189143505d203312c */
function generator(seed: number) {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const int = (from: number, to: number) => from + Math.floor(next() * (to - from + 1));
  const pick = <T>(list: readonly T[]): T => list[int(0, list.length - 1)]!;
  const join = (count: number, make: () => string) => Array.from({ length: count }, make).join("");
  return { int, pick, join };
}

const WORDS =
  "the of Hello WORLD don't I'll we've they're it's he'd O'Neill naïve café Straße İstanbul fiancée ﬁx e\u0301"
    .split(" ");
const CODE = [
  "const f = (x: number) => x ** 2;",
  "def f(a, *, b=None):\n    return {**a, 'b': b}\n",
  '#include <stdio.h>\n\nint main(void) {\n\tprintf("%d\\n", 0x1F);\n}\n',
  "SELECT * FROM t WHERE a <> 'b';--",
  '{"a":[1,2.5e-3,null],"b":"\\u00e9"}',
  'for i in $(seq 1 10); do echo "$i" >> /dev/null; done',
  '<div class="a">&amp;<br/></div>',
  "\\frac{\\partial L}{\\partial \\theta}_{ij}",
  "git rebase -i HEAD~3 && cargo test -- --nocapture",
];
const EMOJI = ["😀", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "❤️", "1️⃣", "🧑🏿‍🚀", "🫠", "⌚", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "‍", "️"];
const SCRIPTS: readonly (readonly [number, number])[] = [
  [0x4e00, 0x9fa5], // CJK
  [0x3041, 0x3096], // Hiragana
  [0x30a1, 0x30fa], // Katakana
  [0xac00, 0xd7a3], // Hangul
  [0x20000, 0x2a6d6], // CJK extension B
  [0x0400, 0x04ff], // Cyrillic
  [0x03a3, 0x03e1], // Greek
  [0x05d0, 0x05ea], // Hebrew
  [0x0620, 0x064a], // Arabic
  [0x0905, 0x0939], // Devanagari
  [0x0e01, 0x0e30], // Thai
  [0x1d400, 0x1d454], // mathematical letters
];
const COMBINING: readonly (readonly [number, number])[] = [[0x0300, 0x036f], [0x064b, 0x0652], [0x093e, 0x094d]];
const NUMBERS = [..."0123456789", ..."²³¹¼½¾", ..."٠١٢٣", ..."०१२", ..."０１２", ..."ⅣⅫ", ..."①②", "〇", "𝟘", "𝟡"];
const SPACES = [
  " ",
  "  ",
  "\t",
  "\n",
  "\r",
  "\r\n",
  "\v",
  "\f",
  "\u0085",
  "\u00a0",
  "\u1680",
  "\u2003",
  "\u2028",
  "\u2029",
  "\u202f",
  "\u205f",
  "\u3000",
  "\u200b",
  "\ufeff",
  "\u2060",
];
const RTL = ["\u200f", "\u200e", "\u202b", "\u202c", "\u2067", "\u2069", "שלום", "مرحبا", "abc", "123", " ", "(", ")"];
const PUNCTUATION = [..."!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", ..."¡§«»¿‘’“”…—€™→∑≠、。「」！"];
const ODD_WORDS = ["'s", "'S", "'t", "'re", "'ve", "'m", "'ll", "'d", "’s", "'ſ", "''", "'", "'x", " 's", "'ll've"];

/**
 * SmolLM2 has no token for these, and everyone drops them. What stood on both sides is then merged by PyPI's
 * `tokenizers` and is not by llama.cpp (nor by us), so they come between letters, where nothing is merged.
 */
const TOKENLESS = "\x04\x06\x13\x14\x16\x1d";

/** At least 1,200 texts that differ. @param special spellings of the model's control tokens, used inside texts */
export function tokenizerStrings(special: readonly string[]): string[] {
  const { int, pick, join } = generator(20260801);
  const inRange = (ranges: readonly (readonly [number, number])[]) => {
    const [from, to] = pick(ranges);
    return String.fromCodePoint(int(from, to));
  };
  const controls = Array.from({ length: 0x20 }, (_, i) => String.fromCharCode(i)).concat("\x7f", "\x80", "\x9f")
    .map((control) => TOKENLESS.includes(control) ? `a${control}a` : control);
  const mangled = () => {
    const token = pick(special);
    const at = int(1, token.length - 1);
    return pick([token.slice(0, at), token.slice(at), `${token.slice(0, at)} ${token.slice(at)}`, token.toUpperCase()]);
  };
  const script = () => {
    const range = pick(SCRIPTS);
    return join(int(1, 6), () => inRange([range]));
  };
  const kinds: Record<string, () => string> = {
    words: () => join(int(1, 12), () => pick(WORDS) + pick([" ", " ", " ", ", ", ".\n", ""])),
    code: () => join(int(1, 3), () => pick(CODE) + pick(["", "\n", "\n\n    ", "\t"])),
    emoji: () => join(int(1, 5), () => pick(EMOJI) + pick(["", "", " ", "a"])),
    scripts: () => join(int(1, 6), () => script() + pick(["", " ", "，", "."])),
    combining: () =>
      join(int(1, 8), () => pick(["a", "E", "n", " ", "م", "क"]) + join(int(0, 3), () => inRange(COMBINING))),
    controls: () => join(int(1, 10), () => pick([pick(controls), pick(WORDS), pick(PUNCTUATION)])),
    runs: () =>
      join(
        int(1, 4),
        () => pick([" ", "\n", "\t", " \n", "=", "-", "a", "\r\n"]).repeat(int(1, 90)) + pick(["", "x", "1"]),
      ),
    digits: () => join(int(1, 12), () => pick(NUMBERS) + pick(["", "", "", " ", ".", ",", "-", "a"])),
    spaces: () => join(int(1, 10), () => pick(SPACES) + pick(["", "", "a", "1", "!", "é"])),
    rtl: () => join(int(2, 9), () => pick(RTL) + pick(["", " "])),
    special: () => join(int(1, 6), () => pick([pick(special), mangled(), pick(WORDS), " ", "\n", ""])),
    punctuation: () => join(int(1, 15), () => pick([pick(PUNCTUATION), pick(PUNCTUATION), " ", pick(WORDS)])),
    apostrophes: () => join(int(1, 6), () => pick(WORDS) + pick(ODD_WORDS) + pick(["", " "])),
    mixed: () => join(int(2, 12), () => pick(Object.values(kinds).slice(0, 13))()).slice(0, 300).toWellFormed(),
    besideSpecial: () =>
      join(int(1, 5), () => pick(SPACES) + pick(["", pick(SPACES)]) + pick(["", "a", pick(special)])),
  };
  const texts = new Set(["", " ", "\n", "a", " a", "a ", "\0", ...special, ...controls, ...NUMBERS, ...SPACES]);
  for (const make of Object.values(kinds)) {
    const wanted = texts.size + 100;
    while (texts.size < wanted) texts.add(make());
  }
  return [...texts];
}

/** Control tokens beside all that their strip rules and a prefix space could touch: spaces, bytes, scripts, each other. */
export function besideAddedTokens(special: readonly string[]): string[] {
  const beside = [
    "",
    " ",
    "  ",
    "\n",
    "\n\n",
    " \n\t ",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u0085",
    "\ufeff",
    "\u200b",
    "a",
    " a",
    "▁",
  ];
  const bytes = ["\0", "\x7f", "\u{1f9d1}\u{1f3ff}", "𐍈", "ᚠᛇ", "߷", "日本", "<0x0A>"];
  return special.flatMap((token, i) => {
    const next = special[(i + 1) % special.length]!;
    return [
      ...beside.flatMap((before) => beside.map((after) => `x${before}${token}${after}y`)).filter((_, at) =>
        at % 3 === i % 3
      ),
      ...bytes.map((byte) => `${byte}${token} ${byte}`),
      ...beside.map((between) => `${token}${between}${next}`),
    ];
  });
}
