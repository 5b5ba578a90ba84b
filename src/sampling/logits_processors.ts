import type { SamplingParams } from "./sampling_params.ts";

/** How often each token occurred. */
export type TokenCounts = ReadonlyMap<number, number>;

/**
 * Applies penalties and biases to `logits` in place.
 * Repetition (over prompt and answer) is CTRL's, https://arxiv.org/abs/1909.05858, as Hugging Face's
 * `RepetitionPenaltyLogitsProcessor`; presence and frequency (over the answer) are OpenAI's,
 * https://platform.openai.com/docs/api-reference/chat/create.
 * @param logits f32 `[vocab_size]`
 */
export function applyPenalties(
  logits: Float32Array,
  params: SamplingParams,
  prompt: ReadonlySet<number>,
  answer: TokenCounts,
): void {
  const { repetitionPenalty, presencePenalty, frequencyPenalty, logitBias } = params;
  const repeat = (id: number) => {
    const logit = logits[id]!;
    logits[id] = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty;
  };
  if (repetitionPenalty !== 1) {
    for (const id of prompt) repeat(id);
    for (const id of answer.keys()) if (!prompt.has(id)) repeat(id);
  }
  if (presencePenalty !== 0 || frequencyPenalty !== 0) {
    for (const [id, count] of answer) logits[id] = logits[id]! - presencePenalty - count * frequencyPenalty;
  }
  for (const [id, bias] of logitBias) if (id < logits.length) logits[id] = logits[id]! + bias;
}
