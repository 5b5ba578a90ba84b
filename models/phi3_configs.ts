import type { RoleIds } from "./configs.ts";
import type { Phi3Shape } from "./phi3_shape.ts";

/** Parts of the external data, where transformers.js is to find them. */
export interface ExternalDataCount {
  modelFileName: string;
  files: number;
}

/**
 * `config.json` of Phi-3.
 * https://huggingface.co/microsoft/Phi-3-mini-4k-instruct/blob/main/config.json
 */
export function phi3Config(
  shape: Phi3Shape,
  { bos_token_id, pad_token_id }: RoleIds,
  externalData?: ExternalDataCount,
): object {
  return {
    architectures: ["Phi3ForCausalLM"],
    attention_bias: false,
    attention_dropout: 0,
    bos_token_id,
    embd_pdrop: 0,
    eos_token_id: pad_token_id,
    hidden_act: "silu",
    hidden_size: shape.hiddenSize,
    initializer_range: 0.02,
    intermediate_size: shape.intermediateSize,
    max_position_embeddings: shape.contextLength,
    model_type: "phi3",
    num_attention_heads: shape.numAttentionHeads,
    num_hidden_layers: shape.numHiddenLayers,
    num_key_value_heads: shape.numKeyValueHeads,
    ...(shape.numAttentionHeads * shape.headDim !== shape.hiddenSize && { head_dim: shape.headDim }),
    original_max_position_embeddings: shape.longRope?.originalContextLength ?? shape.contextLength,
    ...(shape.rotaryDim && { partial_rotary_factor: shape.rotaryDim / shape.headDim }),
    pad_token_id,
    resid_pdrop: 0,
    rms_norm_eps: shape.rmsNormEps,
    rope_scaling: shape.longRope
      ? { type: "longrope", short_factor: shape.longRope.shortFactors, long_factor: shape.longRope.longFactors }
      : null,
    rope_theta: shape.ropeTheta,
    sliding_window: shape.slidingWindow,
    tie_word_embeddings: shape.tieWordEmbeddings ?? false,
    torch_dtype: "float32",
    ...(externalData && {
      "transformers.js_config": { use_external_data_format: { [externalData.modelFileName]: externalData.files } },
    }),
    use_cache: true,
    vocab_size: shape.vocabSize,
  };
}

/** `generation_config.json` of Phi-3: three tokens end an answer. */
export function phi3GenerationConfig(roles: RoleIds): object {
  return { _from_model_config: true, ...roles };
}
