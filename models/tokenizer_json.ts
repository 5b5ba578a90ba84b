/**
 * `tokenizer.json` and its companions from a GGUF's `tokenizer.ggml.*` metadata.
 * Format: https://huggingface.co/docs/tokenizers, metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { ModelFileError } from "../src/errors.ts";
import { type GgufSource, metadataArray, metadataNumber, metadataString } from "./gguf_source.ts";

/** `tokenizer.ggml.token_type`. */
const TokenType = { NORMAL: 1, CONTROL: 3, USER_DEFINED: 4 } as const;

/** One of `added_tokens`: matched as a whole before the text is split. */
export interface AddedToken {
  id: number;
  content: string;
  single_word: boolean;
  lstrip: boolean;
  rstrip: boolean;
  normalized: boolean;
  special: boolean;
}

const isString = (item: unknown): item is string => typeof item === "string";
const isNumber = (item: unknown): item is number => typeof item === "number";

/**
 * A byte-level BPE tokenizer in the `tokenizers` format.
 * @throws {ModelFileError} when the GGUF's tokenizer is not the SmolLM one, whose splitting we know
 */
export function tokenizerJson(source: GgufSource): object {
  const model = metadataString(source, "tokenizer.ggml.model");
  const pre = metadataString(source, "tokenizer.ggml.pre");
  if (model !== "gpt2" || pre !== "smollm") {
    throw new ModelFileError(`Cannot convert tokenizer: model ${model}, pre ${pre}, wanted gpt2 and smollm`);
  }
  for (const key of ["tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_space_prefix"]) {
    if (source.metadata.get(key) === true) {
      throw new ModelFileError(`Cannot convert tokenizer: ${key} is true, wanted false as in SmolLM`);
    }
  }
  const tokens = readTokens(source);
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(source),
    normalizer: null,
    // llama.cpp's `smollm` splitting: each digit alone, then GPT-2's pattern.
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Digits", individual_digits: true },
        { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      ],
    },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
      merges: metadataArray(source, "tokenizer.ggml.merges", isString),
    },
  };
}

/** `tokenizer_config.json`: which tokens have a role, and the chat template. */
export function tokenizerConfig(source: GgufSource, contextLength: number): object {
  const decoder = Object.fromEntries(addedTokens(source).map(({ id, ...token }) => [String(id), token]));
  return {
    add_prefix_space: false,
    added_tokens_decoder: decoder,
    additional_special_tokens: [roleToken(source, "bos"), roleToken(source, "eos")],
    ...roleTokens(source),
    chat_template: metadataString(source, "tokenizer.chat_template"),
    clean_up_tokenization_spaces: false,
    model_max_length: contextLength,
    tokenizer_class: "GPT2Tokenizer",
    vocab_size: readTokens(source).length,
  };
}

/** `special_tokens_map.json`. */
export function specialTokensMap(source: GgufSource): object {
  return { additional_special_tokens: [roleToken(source, "bos"), roleToken(source, "eos")], ...roleTokens(source) };
}

function roleTokens(source: GgufSource): Record<string, string> {
  return {
    bos_token: roleToken(source, "bos"),
    eos_token: roleToken(source, "eos"),
    pad_token: roleToken(source, "padding"),
    unk_token: roleToken(source, "unknown"),
  };
}

function roleToken(source: GgufSource, role: "bos" | "eos" | "padding" | "unknown"): string {
  const id = metadataNumber(source, `tokenizer.ggml.${role}_token_id`);
  const token = readTokens(source)[id];
  if (token === undefined) {
    throw new ModelFileError(`Cannot convert tokenizer: ${role} token ${id} is not in the vocabulary`);
  }
  return token;
}

function readTokens(source: GgufSource): string[] {
  return metadataArray(source, "tokenizer.ggml.tokens", isString);
}

function addedTokens(source: GgufSource): AddedToken[] {
  const types = metadataArray(source, "tokenizer.ggml.token_type", isNumber);
  return readTokens(source).flatMap((content, id) => {
    const type = types[id];
    if (type === TokenType.NORMAL) return [];
    if (type !== TokenType.CONTROL && type !== TokenType.USER_DEFINED) {
      throw new ModelFileError(`Cannot convert tokenizer: token ${id} has type ${type}, wanted 1, 3 or 4`);
    }
    const special = type === TokenType.CONTROL;
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
}
