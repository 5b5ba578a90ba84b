import type { ChatMessage } from "../tokenizer/chat_template.ts";

/** What a prompt was shortened by. */
export interface Truncation {
  /** Oldest turns that were left out: each a user's message with what followed it. */
  turns: number;
  /** Messages of those turns. */
  messages: number;
  /** Prompt tokens that the whole conversation would have had more. */
  tokens: number;
}

/** A conversation without its oldest turns. */
export interface Shortened {
  messages: readonly ChatMessage[];
  turns: number;
}

/**
 * The conversation with as few of its oldest turns left out as `fits` asks for. System messages stay, wherever they
 * are, and so does the last turn: what is left may not fit either.
 * @param fits true for what is shorter than anything that fits
 */
export async function withoutOldestTurns(
  messages: readonly ChatMessage[],
  fits: (shorter: readonly ChatMessage[]) => boolean | Promise<boolean>,
): Promise<Shortened> {
  const said = messages.findIndex(({ role }) => role !== "system");
  // What the assistant says before anybody asked belongs to the first turn.
  const starts = [said, ...messages.flatMap(({ role }, i) => role === "user" && i > said ? [i] : [])];
  if (messages[said]?.role === "assistant" && starts.length > 1) starts.splice(1, 1);
  const without = (turns: number) => messages.filter(({ role }, i) => role === "system" || i >= starts[turns]!);
  let [least, most] = [Math.min(1, starts.length - 1), starts.length - 1];
  while (least < most) {
    const middle = (least + most) >> 1;
    if (await fits(without(middle))) most = middle;
    else least = middle + 1;
  }
  return { messages: without(least), turns: least };
}
