import { readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskStore } from "../../models/file_store.ts";
import { PHI3_SHAPES, type Phi3Size } from "../../models/phi3_shape.ts";
import { type Layout, syntheticOnnxPath, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { type ModelConfig, parseModelConfig } from "../../src/model/model_config.ts";

/** A synthetic model that every backend has to run as onnxruntime does. */
export interface LayoutCase {
  size: Phi3Size;
  layout: Layout;
  promptTokens: number;
  /** Largest difference of a logit: f32 differs by the order of sums, f16 by onnxruntime's rounding of all between. */
  tolerance: number;
}

const F32 = 1e-3;
const F16 = 2e-2;

/** `tiny-wide` goes beyond Phi-3's window of 2,047 tokens, once in a file that has it and once in one that has not. */
export const LAYOUT_CASES: readonly LayoutCase[] = [
  { size: "tiny", layout: "genai", promptTokens: 300, tolerance: F32 },
  { size: "tiny", layout: "web", promptTokens: 300, tolerance: F16 },
  { size: "tiny", layout: "xenova", promptTokens: 300, tolerance: F32 },
  { size: "tiny", layout: "xenova-f16", promptTokens: 300, tolerance: F16 },
  { size: "tiny-longrope", layout: "genai", promptTokens: 60, tolerance: F32 },
  // LongRoPE's scale makes scores larger, and what f16 rounds off them.
  { size: "tiny-longrope", layout: "web", promptTokens: 60, tolerance: 1.5 * F16 },
  { size: "tiny-phi-4", layout: "genai", promptTokens: 60, tolerance: F32 },
  { size: "tiny-phi-4", layout: "hub-f16", promptTokens: 60, tolerance: F16 },
  { size: "tiny-wide", layout: "genai", promptTokens: 2300, tolerance: F32 },
  { size: "tiny-wide", layout: "xenova", promptTokens: 2300, tolerance: F32 },
];

/** Steps that are decoded after the prompt. */
export const STEPS = 64;

/** What onnxruntime-node gave for a case. */
export interface Golden {
  /** Ids that it decoded greedily. */
  greedy: number[];
  /** By how much each led the next likeliest. */
  margins: number[];
  /** Logits of a few prompt positions, `[positions, ids]`. */
  positions: number[];
  ids: number[];
  logits: number[][];
}

export const caseName = ({ size, layout }: LayoutCase): string => `${size} ${layout}`;

export const promptOf = ({ promptTokens, size }: LayoutCase): number[] =>
  Array.from({ length: promptTokens }, (_, i) => (i * 7919 + 13) % PHI3_SHAPES[size].baseVocabSize);

/** A case's model folder; gone when disposed. */
export interface LayoutModel extends AsyncDisposable {
  path: string;
  onnxPath: string;
  config: ModelConfig;
}

export async function layoutModel({ size, layout }: LayoutCase): Promise<LayoutModel> {
  const path = await mkdtemp(join(tmpdir(), "hearth-layout-"));
  using store = new DiskStore(path);
  writeSyntheticOnnx(store, { size, seed: 1 }, layout);
  return {
    path,
    onnxPath: join(path, syntheticOnnxPath(size, layout)),
    config: parseModelConfig(JSON.parse(readFileSync(join(path, "config.json"), "utf8"))),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
