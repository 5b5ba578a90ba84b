import { Engine } from "../../src/engine/engine.ts";
import { type Answer, answer, type Case, requireSameTokens } from "./case.ts";

const TEXT = "The lighthouse keeper climbed the spiral stairs every evening to light the lamp. Ships far out at sea " +
  "saw the beam sweep over the dark water and knew that the harbour was near. One night a storm broke the glass, " +
  "and the keeper held a lantern in the window until the morning came.";
const PROMPTS: Readonly<Record<string, string>> = {
  "repeat this text with one word changed":
    `Repeat this text, but with the word "harbour" changed to "village":\n\n${TEXT}`,
  "a story, nothing repeated": "Write a short story about a fox who finds a lantern in the snow.",
};

/** Prompt lookup on two prompts: one whose answer is nearly its prompt, one whose answer is not. */
export const promptLookup: Case = async ({ engine, runs, quick, progress }) => {
  const { rowInvariant, name } = engine.backend.info;
  if (!rowInvariant) throw new Error(`Cannot time prompt lookup: ${name} takes no drafts; set BACKEND=simd`);
  const maxTokens = quick ? 24 : 100;
  // Both on the same backend, which the bench's own engine disposes.
  const modes = { auto: engine, off: new Engine(engine.model, engine.backend, { ...LIMITS, promptLookup: "off" }) };
  const results = [];
  for (const [work, content] of Object.entries(PROMPTS)) {
    const request = { prompt: { messages: [{ role: "user", content }] }, maxTokens };
    const best: Partial<Record<keyof typeof modes, Answer>> = {};
    // One after the other, so that a busy neighbour hits both.
    for (let run = 0; run <= runs; run++) {
      for (const mode of ["off", "auto"] as const) {
        progress(`${work}, ${mode}, run ${run} of ${runs}`);
        const result = await answer(modes[mode], request);
        const known = best[mode];
        if (run > 0 && (!known || result.timings.decodeMs < known.timings.decodeMs)) best[mode] = result;
      }
    }
    const { off, auto } = best as Record<keyof typeof modes, Answer>;
    requireSameTokens(`prompt lookup on "${work}"`, auto.ids, off.ids);
    results.push({ work, off, auto, gain: off.timings.decodeMs / auto.timings.decodeMs });
  }
  const msPerToken = ({ ids, timings }: Answer) => timings.decodeMs / ids.length;
  return {
    name: "prompt_lookup",
    question: "How long does a token take with drafts out of the prompt, and without?",
    checked: "both gave the same tokens",
    rows: results.map(({ work, off, auto, gain }) => ({
      work,
      tokens: auto.ids.length,
      accepted: auto.usage.drafts.accepted,
      rejected: auto.usage.drafts.rejected,
      "ms/token without": msPerToken(off),
      "ms/token with": msPerToken(auto),
      gain,
    })),
    figures: { gainRepeating: results[0]!.gain, gainStory: results[1]!.gain },
    plot: {
      title: "Prompt lookup",
      x: "prompt",
      y: "ms a token",
      points: results.flatMap(({ work, off, auto }) => [
        { x: work, y: msPerToken(off), series: "without drafts" },
        { x: work, y: msPerToken(auto), series: "with drafts" },
      ]),
    },
  };
};

const LIMITS = { kvBudgetBytes: 2 ** 30 };
