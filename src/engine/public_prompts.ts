import { sameIds } from "../session/common_prefix.ts";
import { Transcript } from "../session/transcript.ts";
import { preparePrompt, type PromptEncoder } from "./prompt_ids.ts";

/** What prompts of all tenants may begin with: the text of a system message, or ids as they stand. */
export type PublicPrompt = string | { ids: readonly number[] };

/** What users' texts may begin with: a prefix ends before the first token that depends on it. */
const BEGINNINGS = ["A", "z", "1", " ", "\n", "\n\n", ".", "é", "中"];

/**
 * The ids that every prompt with a public prompt begins with, up to the user's text.
 * @throws {RangeError} when the chat template leaves system messages out
 * @throws what `preparePrompt` throws
 */
export async function publicPromptIds(prompt: PublicPrompt, encoder: PromptEncoder): Promise<readonly number[]> {
  if (typeof prompt !== "string") {
    await preparePrompt({ prompt: { ids: [...prompt.ids, 0] } }, new Transcript(), encoder);
    return prompt.ids;
  }
  const [ids, without] = await Promise.all([prompt, undefined].map((system) => idsBeforeUser(system, encoder)));
  if (sameIds(ids!, without!)) {
    throw new RangeError("the model's chat template leaves system messages out");
  }
  return ids!;
}

async function idsBeforeUser(system: string | undefined, encoder: PromptEncoder): Promise<readonly number[]> {
  const before = system === undefined ? [] : [{ role: "system", content: system }];
  const [first, ...others] = await Promise.all(BEGINNINGS.map(async (content) => {
    const messages = [...before, { role: "user", content }];
    return (await preparePrompt({ prompt: { messages } }, new Transcript(), encoder)).ids;
  }));
  const end = first!.findIndex((id, i) => others.some((ids) => ids[i] !== id));
  return first!.slice(0, end);
}
