import { OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { PASS_TOKENS } from "./cut_passes.ts";
import { HEAP_BYTES } from "./kernels.ts";

/** The engine's own data and stack, and what small vectors take. */
const FIXED_BYTES = 4 * 2 ** 20;
/** Stack and the like of each thread beside the first. */
const THREAD_BYTES = 2.25 * 2 ** 20;

/** What the heap of an engine has to have beside KV. */
export interface HeapNeeds {
  /** Packed, as the heap holds them. */
  weightBytes: number;
  /** What is read of them at a time. */
  stagingBytes: number;
  config: ModelConfig;
  /** That share a pass. */
  threads: number;
}

/** What it may have. */
export interface HeapLimits {
  /** Memory that this process may take. */
  budgetBytes: number;
  /** What the heap can grow to. */
  maxHeapBytes: number;
}

/**
 * Refuses a model that cannot run here, before it is read.
 * @returns bytes that are left for KV
 * @throws {OutOfMemoryError} with what it takes and what there is
 */
export function requireRoom(needs: HeapNeeds, { budgetBytes, maxHeapBytes }: HeapLimits): number {
  const { weightBytes, stagingBytes, config, threads } = needs;
  const needed = weightBytes + stagingBytes + passBytes(config) + FIXED_BYTES + THREAD_BYTES * (threads - 1);
  if (needed <= Math.min(budgetBytes, maxHeapBytes)) return maxHeapBytes - needed;
  const [limit, what] = budgetBytes < maxHeapBytes
    ? [budgetBytes, "may be used here"]
    : [maxHeapBytes, maxHeapBytes < HEAP_BYTES ? "is the most its heap may have" : "is what a WASM memory can have"];
  throw new OutOfMemoryError(
    `Cannot load the model: it takes ${mib(needed)}, ${mib(weightBytes)} of them packed weights, and ${mib(limit)} ` +
      `${what}, KV caches included; take a smaller model`,
  );
}

/** The numbers of the longest pass, as `Scratch` in `wasm/src/forward.rs` keeps them. */
function passBytes(config: ModelConfig): number {
  const { hiddenSize, intermediateSize, numAttentionHeads, numKeyValueHeads, headDim, vocabSize } = config;
  const qkv = (numAttentionHeads + 2 * numKeyValueHeads) * headDim;
  const wide = Math.max(qkv, 2 * intermediateSize);
  const narrow = Math.max(numAttentionHeads * headDim, intermediateSize);
  return 4 * (PASS_TOKENS * (5 * hiddenSize + wide + 2 * narrow) + vocabSize);
}

const mib = (bytes: number) => `${Math.ceil(bytes / 2 ** 20)} MiB`;
