import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { createEngine } from "../../src/engine/create_engine.ts";
import type { PromptLookupMode } from "../../src/engine/draft_length.ts";
import type { GenerateRequest } from "../../src/engine/generate_request.ts";

const TEXT = "The lighthouse keeper climbed the spiral stairs every evening to light the lamp. Ships far out at sea " +
  "saw the beam sweep over the dark water and knew that the harbour was near. One night a storm broke the glass, and " +
  "the keeper held a lantern in the window until the morning came.";
const PROMPTS: Readonly<Record<string, string>> = {
  "a text to repeat": `Repeat this text, but with the word "harbour" changed to "village":\n\n${TEXT}`,
  "a story": "Write a short story about a fox who finds a lantern in the snow.",
};

/** Tokens and log-probabilities of both prompts, greedy and sampled, and the drafts that came true. */
async function answers(promptLookup: PromptLookupMode) {
  await using engine = await createEngine({ backend: "simd", promptLookup });
  const tokens: Record<string, [number, number][]> = {};
  let accepted = 0;
  for (const [name, content] of Object.entries(PROMPTS)) {
    for (const temperature of [0, 0.8]) {
      const request: GenerateRequest = {
        prompt: { messages: [{ role: "user", content }] },
        maxTokens: 60,
        sampling: { doSample: temperature > 0, temperature, seed: 3 },
      };
      const answer: [number, number][] = tokens[`${name} at ${temperature}`] = [];
      for await (const event of engine.generate(request)) {
        if (event.type === "token") answer.push([event.id, event.logprob]);
        else if (event.type === "end") accepted += event.usage.drafts.accepted;
      }
    }
  }
  return { tokens, accepted };
}

describe("prompt lookup on the bundled model", () => {
  test("gives the same tokens with the same probabilities, to the bit", async () => {
    const plain = await answers("off");
    assert.equal(plain.accepted, 0);
    for (const mode of ["auto", "always"] as const) {
      const drafted = await answers(mode);
      assert.deepEqual(drafted.tokens, plain.tokens, mode);
      // How much "auto" drafts is a matter of measured times.
      if (mode === "always") assert.ok(drafted.accepted > 40, `only ${drafted.accepted} drafted tokens came true`);
    }
  });
});
