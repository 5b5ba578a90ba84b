import { type GgufSource, metadataNumber } from "./gguf_source.ts";
import type { ModelShape } from "./model_shape.ts";

/** Token ids with a role, as every configuration file spells them. */
export interface RoleIds {
  bos_token_id: number;
  /** A list where any of several ends an answer. */
  eos_token_id: number | number[];
  pad_token_id: number;
}

/** The roles in a GGUF's metadata. */
export function roleIds(source: GgufSource): RoleIds {
  return {
    bos_token_id: metadataNumber(source, "tokenizer.ggml.bos_token_id"),
    eos_token_id: metadataNumber(source, "tokenizer.ggml.eos_token_id"),
    pad_token_id: metadataNumber(source, "tokenizer.ggml.padding_token_id"),
  };
}

/**
 * `config.json` in Hugging Face's words, with what transformers.js needs to find the external data.
 * https://huggingface.co/docs/transformers/main/en/model_doc/llama#transformers.LlamaConfig
 */
export function modelConfig(
  source: GgufSource,
  shape: ModelShape,
  modelFileName: string,
  externalDataFiles: number,
): object {
  return {
    architectures: ["LlamaForCausalLM"],
    attention_bias: false,
    attention_dropout: 0,
    ...roleIds(source),
    head_dim: shape.headDim,
    hidden_act: "silu",
    hidden_size: shape.hiddenSize,
    initializer_range: 0.041666666666666664,
    intermediate_size: shape.intermediateSize,
    max_position_embeddings: shape.contextLength,
    mlp_bias: false,
    model_type: "llama",
    num_attention_heads: shape.numAttentionHeads,
    num_hidden_layers: shape.numHiddenLayers,
    num_key_value_heads: shape.numKeyValueHeads,
    pretraining_tp: 1,
    rms_norm_eps: shape.rmsNormEps,
    rope_interleaved: false,
    rope_scaling: null,
    rope_theta: shape.ropeTheta,
    tie_word_embeddings: !source.tensors.has("output.weight"),
    torch_dtype: "float32",
    "transformers.js_config": { use_external_data_format: { [modelFileName]: externalDataFiles } },
    use_cache: true,
    vocab_size: shape.vocabSize,
  };
}

/** `generation_config.json`. */
export function generationConfig(source: GgufSource): object {
  return { _from_model_config: true, ...roleIds(source) };
}

/**
 * `genai_config.json` for onnxruntime-genai; names with `%d` take the layer's number.
 * https://onnxruntime.ai/docs/genai/reference/config.html
 * @param modelPath the `.onnx` file, relative to the folder
 * @param positionIds the graph takes them as an input
 */
export function genaiConfig(
  type: "llama" | "phi3",
  roles: RoleIds,
  shape: ModelShape,
  modelPath: string,
  positionIds = false,
): object {
  const { bos_token_id, eos_token_id, pad_token_id } = roles;
  return {
    model: {
      bos_token_id,
      context_length: shape.contextLength,
      decoder: {
        session_options: { log_id: "onnxruntime-genai", provider_options: [] },
        filename: modelPath,
        head_size: shape.headDim,
        hidden_size: shape.hiddenSize,
        inputs: {
          input_ids: "input_ids",
          attention_mask: "attention_mask",
          ...(positionIds && { position_ids: "position_ids" }),
          past_key_names: "past_key_values.%d.key",
          past_value_names: "past_key_values.%d.value",
        },
        outputs: {
          logits: "logits",
          present_key_names: "present.%d.key",
          present_value_names: "present.%d.value",
        },
        num_attention_heads: shape.numAttentionHeads,
        num_hidden_layers: shape.numHiddenLayers,
        num_key_value_heads: shape.numKeyValueHeads,
      },
      eos_token_id,
      pad_token_id,
      type,
      vocab_size: shape.vocabSize,
    },
    search: {
      diversity_penalty: 0,
      do_sample: false,
      early_stopping: true,
      length_penalty: 1,
      max_length: shape.contextLength,
      min_length: 0,
      no_repeat_ngram_size: 0,
      num_beams: 1,
      num_return_sequences: 1,
      past_present_share_buffer: !positionIds,
      repetition_penalty: 1,
      temperature: 1,
      top_k: 1,
      top_p: 1,
    },
  };
}
