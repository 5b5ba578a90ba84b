import type { SamplingParams } from "../../src/sampling/sampling_params.ts";

interface Scored {
  id: number;
  score: number;
  probability: number;
}

/** `scored` with the probabilities that belong to its scores, adding up to 1. */
function normalised(scored: Scored[]): Scored[] {
  const max = Math.max(...scored.map(({ score }) => score));
  const total = scored.reduce((sum, { score }) => sum + Math.exp(score - max), 0);
  return scored.map(({ id, score }) => ({ id, score, probability: Math.exp(score - max) / total }));
}

/**
 * Plain twin of the sampler's temperature, top-k, top-p and min-p: sort, softmax in f64, cut, renormalise.
 * Scores are rounded to f32 where tensors are f32, so that ties are the same ones.
 * @returns probability by token id, best first; tokens that cannot be drawn are missing
 */
export function naiveDistribution(logits: Float32Array, params: SamplingParams): Map<number, number> {
  const { temperature, topK, topP, minP } = params;
  const max = Math.max(...logits.filter((logit) => !Number.isNaN(logit)));
  let tokens = Array.from(logits, (logit, id) => ({
    id,
    score: Math.fround((logit - max) / temperature),
    probability: 0,
  }));
  tokens = tokens.filter(({ score }) => score > -Infinity);
  tokens.sort((a, b) => b.score - a.score || a.id - b.id);
  if (topK > 0) tokens = tokens.slice(0, topK);
  if (topP < 1) {
    let before = 0;
    tokens = normalised(tokens).filter(({ probability }) => {
      const keep = before < topP;
      before += probability;
      return keep;
    });
  }
  tokens = normalised(tokens);
  const floor = minP * tokens[0]!.probability;
  tokens = normalised(tokens.filter(({ probability }) => probability >= floor));
  return new Map(tokens.map(({ id, probability }) => [id, probability]));
}
