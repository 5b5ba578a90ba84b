/** A tokenizer of SentencePiece kind, laid out as Phi-3's: byte fallback, a space before every text. */

const BYTES = Array.from({ length: 256 }, (_, i) => `<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
/** U+2581, which stands for a space. */
const SPACE = "▁";
const PIECES = [SPACE, ..."abcdehlorstw.,!", "é", "日", "😀"];
const MERGES = [
  "▁ t",
  "h e",
  "▁t he",
  "l l",
  "e ll",
  "h ell",
  "he ll",
  "o w",
  "a b",
  "▁ ▁",
  "▁▁ ▁▁",
  "▁ w",
  "o r",
  "▁w or",
  "ab c",
];

const tokens = ["<unk>", "<s>", "</s>", ...BYTES, ...PIECES, ...MERGES.map((merge) => merge.replace(" ", ""))];
/** Spelled once each: two merges give "hell". */
const vocabulary = [...new Set(tokens)];
const firstAdded = vocabulary.length;

const flags = { single_word: false, lstrip: false, normalized: false };
const ADDED = [
  { ...flags, id: 0, content: "<unk>", rstrip: false, special: true },
  { ...flags, id: 1, content: "<s>", rstrip: false, special: true },
  { ...flags, id: 2, content: "</s>", rstrip: true, special: false },
  ...["<|endoftext|>", "<|assistant|>", "<|end|>", "<|user|>"].map((content, i) => (
    { ...flags, id: firstAdded + i, content, rstrip: content !== "<|endoftext|>", special: true }
  )),
];

export const tinyJson = {
  version: "1.0",
  truncation: null,
  padding: null,
  added_tokens: ADDED,
  normalizer: {
    type: "Sequence",
    normalizers: [{ type: "Prepend", prepend: SPACE }, { type: "Replace", pattern: { String: " " }, content: SPACE }],
  },
  pre_tokenizer: null,
  post_processor: {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: { "<s>": { id: "<s>", ids: [1], tokens: ["<s>"] } },
  },
  decoder: {
    type: "Sequence",
    decoders: [
      { type: "Replace", pattern: { String: SPACE }, content: " " },
      { type: "ByteFallback" },
      { type: "Fuse" },
      { type: "Strip", content: " ", start: 1, stop: 0 },
    ],
  },
  model: {
    type: "BPE",
    dropout: null,
    unk_token: "<unk>",
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: true,
    byte_fallback: true,
    ignore_merges: false,
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
    merges: MERGES,
  },
};

export const tinyConfig = {
  bos_token: "<s>",
  eos_token: "<|endoftext|>",
  unk_token: "<unk>",
  clean_up_tokenization_spaces: false,
  tokenizer_class: "LlamaTokenizer",
  chat_template:
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}" +
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}" +
    "{% else %}{{ raise_exception('Unknown role') }}{% endif %}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
};

/** Id of a token. */
export function tinyId(token: string): number {
  const id = ADDED.find(({ content }) => content === token)?.id ?? vocabulary.indexOf(token);
  if (id < 0) throw new RangeError(`no token ${token}`);
  return id;
}
