import type { Backend, RowResult } from "../../src/backend/backend.ts";
import { argmax } from "../../src/sampling/softmax.ts";

/** What exact arithmetic gives after a prompt, to compare others by. */
export interface Reference {
  promptTokens: number;
  /** Greedy ids after the prompt. */
  ids: number[];
  /** How much the best logit is above the second, for each id: below 0.05 or so rounding decides. */
  gaps: number[];
}

/** Prompts that are compared: as long as a question, and longer than what a kernel takes at once. */
export const PROMPTS = [64, 512] as const;

/** Ids without meaning, the same everywhere. */
export function promptIds(tokens: number, vocabSize: number): number[] {
  return Array.from({ length: tokens }, (_, i) => 3 + (i * 7919) % (vocabSize - 100));
}

/** The id that greedy decoding takes: of a ranking, or of all logits where the backend ranks none. */
export function bestId(result: RowResult | undefined): number {
  return result!.top?.[0]?.ids[0] ?? argmax(result!.logits);
}

/** Decodes greedily. @param backend simd with f32 activations */
export async function makeReference(backend: Backend, prompt: readonly number[], tokens: number): Promise<Reference> {
  using cache = backend.createKvCache();
  const reference: Reference = { promptTokens: prompt.length, ids: [], gaps: [] };
  let next = prompt;
  for (let i = 0; i < tokens; i++) {
    const [row] = await backend.forward([{ cache, tokenIds: next, top: 2 }]);
    const { ids: [id], logits } = row!.top![0]!;
    reference.ids.push(id!);
    reference.gaps.push(logits[0]! - logits[1]!);
    next = [id!];
  }
  return reference;
}

/** How a backend's greedy ids differ from the reference's, when it is told the reference's at each step. */
export interface Agreement {
  promptTokens: number;
  steps: number;
  /** Steps with another id, and how near the reference's best two logits were there. */
  different: { step: number; got: number; wanted: number; gap: number }[];
}

/** @param chunk prompt tokens of a pass */
export async function compare(
  backend: Backend,
  reference: Reference,
  vocabSize: number,
  chunk: number,
): Promise<Agreement> {
  using cache = backend.createKvCache();
  const prompt = promptIds(reference.promptTokens, vocabSize);
  const agreement: Agreement = { promptTokens: prompt.length, steps: reference.ids.length, different: [] };
  let got = 0;
  for (let at = 0; at < prompt.length; at += chunk) {
    const [row] = await backend.forward([{ cache, tokenIds: prompt.slice(at, at + chunk), top: 1 }]);
    got = bestId(row);
  }
  for (const [step, wanted] of reference.ids.entries()) {
    if (got !== wanted) agreement.different.push({ step, got, wanted, gap: reference.gaps[step]! });
    const [row] = await backend.forward([{ cache, tokenIds: [wanted], top: 1 }]);
    got = bestId(row);
  }
  return agreement;
}
