import { Detokenizer, type DetokenizerOptions } from "../tokenizer/detokenizer.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";

/** Ids that say what the reader was shown. */
export interface ExactReply {
  ids: readonly number[];
  /** Whether their text is `text`, so that they can stand for it in a later prompt. */
  exact: boolean;
}

/**
 * The sampled ids as far as `text` goes. A stop string cuts text, not tokens: what is left of a token that it cut is
 * encoded anew.
 */
export function exactReply(
  sampled: readonly number[],
  text: string,
  tokenizer: Tokenizer,
  options: DetokenizerOptions,
): ExactReply {
  const textOf = (ids: readonly number[]) => {
    const detokenizer = new Detokenizer(tokenizer, options);
    return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
  };
  if (textOf(sampled) === text) return { ids: sampled, exact: true };
  let kept = sampled;
  while (!text.startsWith(textOf(kept))) kept = kept.slice(0, -1);
  const ids = [...kept, ...tokenizer.encode(text.slice(textOf(kept).length))];
  return { ids, exact: textOf(ids) === text };
}
