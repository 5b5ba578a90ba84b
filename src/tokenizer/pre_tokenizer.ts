import { z } from "zod";

const schema = z.looseObject({
  type: z.string(),
  pretokenizers: z.array(z.unknown()).optional(),
  individual_digits: z.boolean().optional(),
  use_regex: z.boolean().optional(),
  add_prefix_space: z.boolean().optional(),
  prepend_scheme: z.string().optional(),
});

const split = (regex: string) => ({ type: "Split", pattern: { Regex: regex }, behavior: "Isolated", invert: false });

/** https://github.com/openai/gpt-2/blob/9b63575ef42771a015060c964af2c3da4cf7c8ab/src/encoder.py#L53 */
const GPT2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/**
 * A `pre_tokenizer` that `@huggingface/tokenizers` 0.2.0 runs as the Rust library runs the given one: its `Digits`
 * knows 0 to 9 only, and its `ByteLevel` has JavaScript's `\s` (with U+FEFF, without U+0085). Its `Split` reads a
 * pattern as Unicode does.
 */
export function exactPreTokenizer(preTokenizer: unknown): unknown {
  const parsed = schema.safeParse(preTokenizer);
  if (!parsed.success) return preTokenizer;
  const { type, pretokenizers, individual_digits, use_regex, add_prefix_space } = parsed.data;
  if (type === "Sequence") return { ...parsed.data, pretokenizers: pretokenizers?.map(exactPreTokenizer) };
  if (type === "Digits") return split(individual_digits ? String.raw`\p{N}` : String.raw`\p{N}+`);
  // A space that is put in front must be there before the text is cut.
  if (type !== "ByteLevel" || use_regex === false || add_prefix_space) return preTokenizer;
  return { type: "Sequence", pretokenizers: [split(GPT2), { ...parsed.data, use_regex: false }] };
}

/**
 * The same for text that goes on another: SentencePiece models that were saved anew (`legacy: false`) put a space before
 * the first text only. The given one itself where that makes no difference.
 */
export function laterPreTokenizer(preTokenizer: unknown): unknown {
  const parsed = schema.safeParse(preTokenizer);
  if (!parsed.success) return preTokenizer;
  const { type, pretokenizers, prepend_scheme } = parsed.data;
  if (type === "Metaspace" && prepend_scheme === "first") return { ...parsed.data, prepend_scheme: "never" };
  const later = pretokenizers?.map(laterPreTokenizer);
  return later?.some((one, i) => one !== pretokenizers![i]) ? { ...parsed.data, pretokenizers: later } : preTokenizer;
}
