import { OutOfMemoryError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { PASS_TOKENS } from "./cut_passes.ts";

/** What a WASM memory with 32-bit addresses ends at. */
const HEAP_BYTES = 2 ** 32;
/** The engine's code, stacks, and what is read of the weights at a time. */
const OVERHEAD_BYTES = 32 * 2 ** 20;

/**
 * Refuses a model that cannot run here, before it is read.
 * @param weightBytes packed, as the heap holds them
 * @param budgetBytes that this process may take
 * @throws {OutOfMemoryError} with what it takes and what there is
 */
export function requireRoom(weightBytes: number, config: ModelConfig, budgetBytes: number): void {
  const needed = weightBytes + passBytes(config) + OVERHEAD_BYTES;
  const [limit, what] = budgetBytes < HEAP_BYTES
    ? [budgetBytes, "may be used here"]
    : [HEAP_BYTES, "is what a WASM memory can have"];
  if (needed <= limit) return;
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
