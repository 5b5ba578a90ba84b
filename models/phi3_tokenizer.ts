/**
 * The tokenizer files of Phi-3 around an invented vocabulary: SentencePiece BPE with byte fallback, a space before
 * every text, added tokens after the vocabulary.
 * https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/tokenizer.json
 */
import type { RoleIds } from "./configs.ts";
import type { Phi3Shape } from "./phi3_shape.ts";
import { inventVocabulary, SPACE, type Vocabulary } from "./synthetic_vocabulary.ts";
import type { AddedToken } from "./tokenizer_json.ts";

/** In order of their ids, from the size of the vocabulary on. */
const ADDED = [
  "<|endoftext|>",
  "<|assistant|>",
  ...[1, 2, 3, 4].map((i) => `<|placeholder${i}|>`),
  "<|system|>",
  "<|end|>",
  ...[5, 6].map((i) => `<|placeholder${i}|>`),
  "<|user|>",
];

/** As the model's `tokenizer_config.json` has it: each turn ends in `<|end|>` and a newline. */
export const PHI3_CHAT_TEMPLATE = "{% for message in messages %}" +
  ["system", "user", "assistant"].map((role, i) =>
    `{% ${i === 0 ? "if" : "elif"} message['role'] == '${role}' %}` +
    `{{'<|${role}|>\n' + message['content'] + '<|end|>\n'}}`
  ).join("") +
  "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";

/** Phi-3's tokenizer for one shape: what the files of both formats are made from. */
export interface Phi3Tokenizer extends Vocabulary {
  added: readonly AddedToken[];
  /** `eos_token_id` lists what ends an answer; its first is the tokenizer's own. */
  roles: RoleIds & { eos_token_id: number[] };
}

/** The tokenizer of a shape: a vocabulary of `baseVocabSize` and the added tokens behind it. */
export function phi3Tokenizer({ baseVocabSize }: Phi3Shape): Phi3Tokenizer {
  const token = (id: number, content: string, rstrip: boolean, special = true) => (
    { id, content, single_word: false, lstrip: false, rstrip, normalized: false, special }
  );
  const idOf = (content: string) => baseVocabSize + ADDED.indexOf(content);
  return {
    ...inventVocabulary(baseVocabSize),
    added: [
      token(0, "<unk>", false),
      token(1, "<s>", false),
      token(2, "</s>", true, false),
      ...ADDED.map((content) => token(idOf(content), content, content !== "<|endoftext|>")),
    ],
    roles: {
      bos_token_id: 1,
      eos_token_id: ["<|endoftext|>", "<|assistant|>", "<|end|>"].map(idOf),
      pad_token_id: idOf("<|endoftext|>"),
    },
  };
}

/** `tokenizer.json`. */
export function phi3TokenizerJson({ tokens, merges, added }: Phi3Tokenizer): object {
  const bos = { SpecialToken: { id: "<s>", type_id: 0 } };
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: {
      type: "Sequence",
      normalizers: [{ type: "Prepend", prepend: SPACE }, { type: "Replace", pattern: { String: " " }, content: SPACE }],
    },
    pre_tokenizer: null,
    post_processor: {
      type: "TemplateProcessing",
      single: [bos, sequence],
      pair: [bos, sequence, { SpecialToken: { id: "<s>", type_id: 1 } }, { Sequence: { id: "B", type_id: 1 } }],
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
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges,
    },
  };
}

const ROLE_TOKENS = { bos_token: "<s>", eos_token: "<|endoftext|>", pad_token: "<|endoftext|>", unk_token: "<unk>" };

/** `tokenizer_config.json`. */
export function phi3TokenizerConfig({ added }: Phi3Tokenizer, contextLength: number): object {
  return {
    add_bos_token: true,
    add_eos_token: false,
    added_tokens_decoder: Object.fromEntries(added.map(({ id, ...token }) => [String(id), token])),
    ...ROLE_TOKENS,
    chat_template: PHI3_CHAT_TEMPLATE,
    clean_up_tokenization_spaces: false,
    legacy: false,
    model_max_length: contextLength,
    padding_side: "left",
    sp_model_kwargs: {},
    tokenizer_class: "LlamaTokenizer",
    use_default_system_prompt: false,
  };
}

/** `special_tokens_map.json`. */
export function phi3SpecialTokensMap({ added }: Phi3Tokenizer): object {
  return Object.fromEntries(
    Object.entries(ROLE_TOKENS).map(([role, content]) => {
      const { id: _, special: __, ...token } = added.find((item) => item.content === content)!;
      return [role, token];
    }),
  );
}

/** `added_tokens.json`: the tokens behind the vocabulary, by content. */
export function phi3AddedTokens({ added, tokens }: Phi3Tokenizer): object {
  return Object.fromEntries(added.filter(({ id }) => id >= tokens.length).map(({ id, content }) => [content, id]));
}
