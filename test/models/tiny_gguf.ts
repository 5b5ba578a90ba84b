import { GgmlType, type GgufSource, type GgufTensor } from "../../models/gguf_source.ts";
import { randomBytes } from "./random_bytes.ts";

/** Sizes of {@linkcode tinyGguf}: small, but with grouped heads and more than one block in a row. */
export const TINY = {
  layers: 2,
  hidden: 64,
  intermediate: 96,
  heads: 2,
  kvHeads: 1,
  headDim: 32,
  vocab: 40,
  context: 16,
  theta: 10_000,
  epsilon: 1e-5,
} as const;

/** A Llama GGUF of seeded random weights, as if read from a file. @param context tokens that its context holds */
export function tinyGguf(context: number = TINY.context): GgufSource {
  const { hidden, intermediate, kvHeads, headDim, vocab } = TINY;
  const tensors = new Map<string, GgufTensor>();
  tensors.set("token_embd.weight", q8([vocab, hidden], 1));
  tensors.set("output_norm.weight", norm(2));
  for (let layer = 0; layer < TINY.layers; layer++) {
    const prefix = `blk.${layer}`;
    const seed = 10 * (layer + 1);
    tensors.set(`${prefix}.attn_norm.weight`, norm(seed));
    tensors.set(`${prefix}.ffn_norm.weight`, norm(seed + 1));
    tensors.set(`${prefix}.attn_q.weight`, q4([hidden, hidden], seed + 2));
    tensors.set(`${prefix}.attn_k.weight`, q4([kvHeads * headDim, hidden], seed + 3));
    tensors.set(`${prefix}.attn_v.weight`, q4([kvHeads * headDim, hidden], seed + 4));
    tensors.set(`${prefix}.attn_output.weight`, q4([hidden, hidden], seed + 5));
    tensors.set(`${prefix}.ffn_gate.weight`, q4([intermediate, hidden], seed + 6));
    tensors.set(`${prefix}.ffn_up.weight`, q4([intermediate, hidden], seed + 7));
    tensors.set(`${prefix}.ffn_down.weight`, q4([hidden, intermediate], seed + 8));
  }
  return { metadata: metadata(context), tensors };
}

function metadata(context: number): Map<string, unknown> {
  const tokens = Array.from({ length: TINY.vocab }, (_, id) => id < 3 ? `<|${id}|>` : `t${id}`);
  return new Map<string, unknown>([
    ["general.architecture", "llama"],
    ["llama.block_count", TINY.layers],
    ["llama.embedding_length", TINY.hidden],
    ["llama.feed_forward_length", TINY.intermediate],
    ["llama.attention.head_count", TINY.heads],
    ["llama.attention.head_count_kv", TINY.kvHeads],
    ["llama.attention.layer_norm_rms_epsilon", Math.fround(TINY.epsilon)],
    ["llama.rope.dimension_count", TINY.headDim],
    ["llama.rope.freq_base", TINY.theta],
    ["llama.context_length", context],
    ["llama.vocab_size", TINY.vocab],
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", "smollm"],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", tokens.map((_, id) => id < 3 ? 3 : 1)],
    ["tokenizer.ggml.merges", []],
    ["tokenizer.ggml.bos_token_id", 1],
    ["tokenizer.ggml.eos_token_id", 2],
    ["tokenizer.ggml.padding_token_id", 2],
    ["tokenizer.ggml.unknown_token_id", 0],
    ["tokenizer.chat_template", "{{ messages[0]['content'] }}"],
  ]);
}

/** Weights between -1/4 and 1/4 or so: d is 2^-5, m is -2^-2, and every third block is constant (d 0). */
function q4(dims: [number, number], seed: number): GgufTensor {
  const bytes = randomBytes(dims[0] * dims[1] / 32 * 20, seed);
  const view = new DataView(bytes.buffer);
  for (let start = 0; start < bytes.length; start += 20) {
    view.setUint16(start, start % 60 === 0 ? 0 : 0x2800, true);
    view.setUint16(start + 2, start % 60 === 0 ? 0x1c00 : 0xb400, true);
  }
  return { type: GgmlType.Q4_1, dims, bytes };
}

/** Weights between -1 and 1: d is 2^-7. */
function q8(dims: [number, number], seed: number): GgufTensor {
  const bytes = randomBytes(dims[0] * dims[1] / 32 * 34, seed);
  const view = new DataView(bytes.buffer);
  for (let start = 0; start < bytes.length; start += 34) view.setUint16(start, 0x2000, true);
  return { type: GgmlType.Q8_0, dims, bytes };
}

function norm(seed: number): GgufTensor {
  const weights = Float32Array.from(randomBytes(TINY.hidden, seed), (byte) => 0.5 + byte / 256);
  return { type: GgmlType.F32, dims: [TINY.hidden], bytes: new Uint8Array(weights.buffer) };
}
