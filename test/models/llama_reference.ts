import { GgmlType, type GgufSource } from "../../models/gguf_source.ts";
import { dequantizeQ4_1 } from "../../models/q4_1.ts";
import { dequantizeQ8_0 } from "../../models/q8_0.ts";
import { TINY } from "./tiny_gguf.ts";

type Matrix = number[][];

/**
 * Logits `[tokens, vocab]` of a GGUF with the sizes of {@linkcode TINY}, straight from ggml's weights in f64: rotary
 * turns neighbours, nothing is fused or reordered. Slow and obvious.
 * https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/modeling_llama.py
 */
export function llamaLogits(source: GgufSource, tokenIds: number[]): Matrix {
  const embedding = weights(source, "token_embd.weight");
  let hidden = tokenIds.map((id) => embedding[id]!);
  for (let layer = 0; layer < TINY.layers; layer++) {
    const product = (rows: Matrix, name: string) => multiply(rows, weights(source, `blk.${layer}.${name}.weight`));
    const normed = norm(hidden, weights(source, `blk.${layer}.attn_norm.weight`)[0]!);
    const q = rotate(product(normed, "attn_q"));
    const k = rotate(product(normed, "attn_k"));
    hidden = add(hidden, product(attend(q, k, product(normed, "attn_v")), "attn_output"));
    const again = norm(hidden, weights(source, `blk.${layer}.ffn_norm.weight`)[0]!);
    const up = product(again, "ffn_up");
    const gated = product(again, "ffn_gate").map((row, t) => row.map((g, i) => g / (1 + Math.exp(-g)) * up[t]![i]!));
    hidden = add(hidden, product(gated, "ffn_down"));
  }
  return multiply(norm(hidden, weights(source, "output_norm.weight")[0]!), embedding);
}

function weights(source: GgufSource, name: string): Matrix {
  const { type, dims, bytes } = source.tensors.get(name)!;
  const [rows, columns] = dims.length === 2 ? [dims[0]!, dims[1]!] : [1, dims[0]!];
  const flat = type === GgmlType.Q4_1
    ? dequantizeQ4_1(bytes, rows, columns)
    : type === GgmlType.Q8_0
    ? dequantizeQ8_0(bytes, rows, columns)
    : new Float32Array(bytes.buffer);
  return Array.from({ length: rows }, (_, row) => [...flat.subarray(row * columns, (row + 1) * columns)]);
}

function dot(a: number[], b: number[]): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function multiply(rows: Matrix, matrix: Matrix): Matrix {
  return rows.map((row) => matrix.map((weights) => dot(row, weights)));
}

function add(a: Matrix, b: Matrix): Matrix {
  return a.map((row, t) => row.map((value, i) => value + b[t]![i]!));
}

function norm(rows: Matrix, weight: number[]): Matrix {
  return rows.map((row) => {
    const scale = 1 / Math.sqrt(dot(row, row) / row.length + TINY.epsilon);
    return row.map((value, i) => value * scale * weight[i]!);
  });
}

function rotate(rows: Matrix): Matrix {
  return rows.map((row, position) =>
    row.map((value, i) => {
      const angle = position * TINY.theta ** (-(i % TINY.headDim - i % 2) / TINY.headDim);
      const other = i % 2 === 0 ? -row[i + 1]! : row[i - 1]!;
      return value * Math.cos(angle) + other * Math.sin(angle);
    })
  );
}

function attend(q: Matrix, k: Matrix, v: Matrix): Matrix {
  const { heads, kvHeads, headDim } = TINY;
  const part = (row: number[], head: number) => row.slice(head * headDim, (head + 1) * headDim);
  return q.map((row, t) =>
    Array.from({ length: heads }, (_, head) => {
      const kvHead = Math.floor(head * kvHeads / heads);
      const seen = k.slice(0, t + 1);
      const scores = seen.map((key) => Math.exp(dot(part(row, head), part(key, kvHead)) / Math.sqrt(headDim)));
      const sum = scores.reduce((a, b) => a + b);
      return Array.from({ length: headDim }, (_, i) =>
        scores.reduce((total, score, s) => total + score / sum * part(v[s]!, kvHead)[i]!, 0));
    }).flat()
  );
}
