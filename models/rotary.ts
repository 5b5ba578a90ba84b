/**
 * Rotary position embedding turns pairs of a head's elements. ggml's Llama pairs neighbours (2j, 2j + 1); Hugging Face
 * and our graph pair the halves (j, j + head_dim/2). The GGUF converter moves the rows of q and k accordingly:
 * https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (`LlamaModel.permute`)
 */

/**
 * For `reorderRows`: where the GGUF keeps each row of a q or k projection, `[rows]`. Within a head, row `j` of the
 * first half is at `2j` and row `j` of the second half at `2j + 1`.
 */
export function halfRotaryRowOrder(rows: number, headDim: number): Uint32Array {
  const half = headDim / 2;
  return Uint32Array.from({ length: rows }, (_, row) => {
    const inHead = row % headDim;
    return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
  });
}

/**
 * Cosine and sine of position * theta^(-2j / rotary_dim) / factors[j], times `scale`, f32 `[context_length,
 * rotary_dim/2]` each, as GroupQueryAttention's `cos_cache` and `sin_cache`. Angles are f64, so late positions keep their
 * precision.
 */
export function rotaryCaches(
  contextLength: number,
  rotaryDim: number,
  theta: number,
  factors?: readonly number[],
  scale = 1,
): { cos: Float32Array; sin: Float32Array } {
  const half = rotaryDim / 2;
  const cos = new Float32Array(contextLength * half);
  const sin = new Float32Array(contextLength * half);
  for (let j = 0; j < half; j++) {
    const frequency = theta ** (-2 * j / rotaryDim) / (factors?.[j] ?? 1);
    for (let position = 0; position < contextLength; position++) {
      cos[position * half + j] = scale * Math.cos(position * frequency);
      sin[position * half + j] = scale * Math.sin(position * frequency);
    }
  }
  return { cos, sin };
}

/** What LongRoPE scales cosines and sines by: https://arxiv.org/abs/2402.13753, as Phi-3's code has it. */
export function longRopeScale(stretch: number, originalContextLength: number): number {
  return stretch <= 1 ? 1 : Math.sqrt(1 + Math.log(stretch) / Math.log(originalContextLength));
}
