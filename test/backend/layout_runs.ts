/** What a backend makes of a layout's prompt, held to what onnxruntime-node gave (`test/parity/layout_goldens.ts`). */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import type { Backend } from "../../src/backend/backend.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { caseName, type Golden, type LayoutCase } from "./layout_cases.ts";

const goldens: Record<string, Golden> = JSON.parse(
  readFileSync(new URL("../golden/layouts.json", import.meta.url), "utf8"),
);

export const goldenOf = (item: LayoutCase): Golden => goldens[caseName(item)]!;

/** What a backend makes of a prompt and of ids after it. */
export interface Run {
  /** Of the prompt, f32 `[tokens, vocab_size]`. */
  logits: Float32Array;
  /** The likeliest id after the prompt and after each but the last of `ids`: greedy decoding, while it goes the same way. */
  greedy: number[];
}

/** Runs a prompt in two parts, so that several tokens meet a past too, and then `ids` one by one. */
export async function run(backend: Backend, prompt: readonly number[], ids: readonly number[]): Promise<Run> {
  using cache = backend.createKvCache();
  const half = Math.floor(prompt.length / 2);
  const parts: Float32Array[] = [];
  for (const tokenIds of [prompt.slice(0, half), prompt.slice(half)]) {
    const [row] = await backend.forward([{ cache, tokenIds, logits: "all" }]);
    parts.push(row!.logits);
  }
  const vocabSize = parts[0]!.length / half;
  const logits = new Float32Array(prompt.length * vocabSize);
  logits.set(parts[0]!);
  logits.set(parts[1]!, half * vocabSize);
  const greedy = [argmax(logits.subarray(-vocabSize))];
  for (const id of ids.slice(0, -1)) {
    const [row] = await backend.forward([{ cache, tokenIds: [id], top: 1 }]);
    greedy.push(row!.top?.[0]?.ids[0] ?? argmax(row!.logits));
  }
  return { logits, greedy };
}

/**
 * @param tolerance largest difference of a logit; ids may be others where two of onnxruntime's are within twice of it
 * @param nearTies such ids at most
 */
export function checkGolden(
  { logits, greedy }: Run,
  golden: Golden,
  vocabSize: number,
  tolerance: number,
  nearTies = 2,
): void {
  golden.positions.forEach((position, p) =>
    golden.ids.forEach((id, i) => {
      const [got, want] = [logits[position * vocabSize + id]!, golden.logits[p]![i]!];
      assert.ok(Math.abs(got - want) <= tolerance, `token ${position}, logit ${id}: ${got}, ${want}`);
    })
  );
  const other = greedy.flatMap((id, step) => id === golden.greedy[step] ? [] : [golden.margins[step]!]);
  assert.ok(other.every((margin) => margin <= 2 * tolerance), `not only near-ties: ${other}`);
  assert.ok(other.length <= nearTies, `${other.length} near-ties`);
}
