import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";
import { type Answer, answer, type Case, requireSameTokens } from "./case.ts";

const QUESTIONS = [
  "My name is Ada and I keep bees on the roof of a library. What should I plant for them?",
  "Which of those flower first in spring?",
  "How much sun do they need?",
  "What if it rains for a week?",
  "And in winter?",
  "Who could help me with the work?",
  "What should I write on the sign beside the hives?",
  "Say it in fewer words.",
];

/** Turn by turn through one conversation, with the session's KV cache and with `cache: "off"`. */
export const sessionTurns: Case = async ({ engine, quick, progress }) => {
  const questions = quick ? QUESTIONS.slice(0, 3) : QUESTIONS;
  const messages: ChatMessage[] = [];
  const session = { id: crypto.randomUUID() };
  const rows = [];
  const points = [];
  let last: { on: Answer; off: Answer } | undefined;
  for (const [i, content] of questions.entries()) {
    progress(`turn ${i + 1} of ${questions.length}`);
    messages.push({ role: "user", content });
    // To the end at most: control tokens behind it would be no text, and the run without a session has only that.
    const request = { prompt: { messages: [...messages] }, maxTokens: 16 };
    const on = await answer(engine, { ...request, session });
    const off = await answer(engine, { ...request, cache: "off" });
    requireSameTokens(`turn ${i + 1} without the session cache`, off.ids, on.ids);
    messages.push({ role: "assistant", content: on.text });
    const perToken = ({ timings, ids }: Answer) => timings.decodeMs / (ids.length - 1);
    rows.push({
      turn: i + 1,
      "prompt tokens": on.usage.promptTokens,
      "cached tokens": on.usage.cachedTokens,
      "TTFT ms, cache on": on.timings.ttftMs,
      "TTFT ms, off": off.timings.ttftMs,
      "off / on": off.timings.ttftMs / on.timings.ttftMs,
      "decode ms/token, on": perToken(on),
      "decode ms/token, off": perToken(off),
    });
    points.push(
      { x: i + 1, y: on.timings.ttftMs, series: "session cache on" },
      { x: i + 1, y: off.timings.ttftMs, series: "off" },
    );
    last = { on, off };
  }
  await engine.sessions.delete(session.id);
  const { on, off } = last!;
  return {
    name: "session_turns",
    question: "How long until the first token of each turn, with the session's KV cache and without?",
    checked: `all ${questions.length} answers were the same token for token`,
    rows,
    figures: {
      turns: questions.length,
      lastTurnPromptTokens: on.usage.promptTokens,
      lastTurnOnMs: on.timings.ttftMs,
      lastTurnOffMs: off.timings.ttftMs,
      lastTurnRatio: off.timings.ttftMs / on.timings.ttftMs,
    },
    plot: { title: "Time to first token by turn", x: "turn", y: "TTFT, ms", points },
  };
};
