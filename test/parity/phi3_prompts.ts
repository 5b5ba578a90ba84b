/** Phi-3's tokenizer and template at full size, and what ids a prompt of theirs has to have. */
import { phi3Tokenizer, phi3TokenizerConfig, phi3TokenizerJson } from "../../models/phi3_tokenizer.ts";
import { PHI3_SHAPES } from "../../models/phi3_shape.ts";
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";

const shape = PHI3_SHAPES["phi-3-mini"];
const made = phi3Tokenizer(shape);

/** `tokenizer.json` and `tokenizer_config.json`. */
export const phi3Json = phi3TokenizerJson(made);
export const phi3Config = phi3TokenizerConfig(made, shape.contextLength);
/** `tokenizer.json` as `transformers` saves it anew: only the very first text has a space put before it. */
export const phi3ResavedJson = {
  ...phi3Json,
  normalizer: null,
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false },
};

/** Ids as Microsoft's files have them. */
const ROLE_IDS: Readonly<Record<string, number>> = { system: 32006, user: 32010, assistant: 32001 };
const END = 32007;
const END_OF_TEXT = 32000;

/** A message's text as the model gets it: white space after a control token belongs to that token. */
export const phi3Content = ({ content }: ChatMessage) => content.replace(/^\p{White_Space}+/u, "");

/**
 * The prompt of a conversation put together by hand, from the ids of its texts.
 * @param textIds ids of each message's {@linkcode phi3Content} as ordinary text
 */
export function phi3Prompt(
  messages: readonly ChatMessage[],
  textIds: readonly (readonly number[])[],
  addGenerationPrompt: boolean,
): number[] {
  const turns = messages.flatMap(({ role }, i) => [ROLE_IDS[role]!, ...textIds[i]!, END]);
  return [...turns, addGenerationPrompt ? ROLE_IDS.assistant! : END_OF_TEXT];
}
