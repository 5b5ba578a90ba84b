import { z } from "zod";
import { ModelFileError } from "../errors.ts";

/**
 * What the forward pass needs to know of a model, from `config.json`.
 * Names are Hugging Face's, in camelCase: this file is where the change of spelling happens.
 * https://huggingface.co/docs/transformers/main/en/model_doc/phi3#transformers.Phi3Config
 */
export interface ModelConfig {
  architecture: string;
  numHiddenLayers: number;
  hiddenSize: number;
  intermediateSize: number;
  numAttentionHeads: number;
  numKeyValueHeads: number;
  headDim: number;
  vocabSize: number;
  /** Tokens that fit, prompt and answer together. Under LongRoPE those of the original context, see {@linkcode contextOf}. */
  contextLength: number;
  rmsNormEps: number;
  ropeTheta: number;
  /** Attention looks back this many tokens; absent when it sees all. */
  slidingWindow: number | undefined;
  tieWordEmbeddings: boolean;
}

const count = z.int().positive();
const schema = z.object({
  architectures: z.array(z.string()).min(1),
  num_hidden_layers: count,
  hidden_size: count,
  intermediate_size: count,
  num_attention_heads: count,
  num_key_value_heads: count.optional(),
  head_dim: count.nullish(),
  vocab_size: count,
  max_position_embeddings: count,
  original_max_position_embeddings: count.nullish(),
  rope_scaling: z.looseObject({ long_factor: z.array(z.number()).optional() }).nullish(),
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().default(10_000),
  sliding_window: count.nullish(),
  tie_word_embeddings: z.boolean().default(false),
});

/**
 * Reads the parsed `config.json` of a model folder.
 * @throws {ModelFileError} naming the field that is missing or wrong
 */
export function parseModelConfig(json: unknown): ModelConfig {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    throw new ModelFileError(`Cannot use config.json: ${z.prettifyError(parsed.error)}`, { cause: parsed.error });
  }
  const config = parsed.data;
  const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads;
  if (!Number.isInteger(headDim)) {
    throw new ModelFileError(
      `Cannot use config.json: hidden_size ${config.hidden_size} does not divide by ` +
        `num_attention_heads ${config.num_attention_heads}, and there is no head_dim`,
    );
  }
  // Kernels take four numbers at a time.
  if (headDim % 4 !== 0) {
    throw new ModelFileError(`Cannot use config.json: head_dim is ${headDim}, wanted a multiple of 4`);
  }
  const numKeyValueHeads = config.num_key_value_heads ?? config.num_attention_heads;
  if (config.num_attention_heads % numKeyValueHeads !== 0) {
    throw new ModelFileError(
      `Cannot use config.json: num_attention_heads ${config.num_attention_heads} does not divide by ` +
        `num_key_value_heads ${numKeyValueHeads}`,
    );
  }
  return {
    architecture: config.architectures[0]!,
    numHiddenLayers: config.num_hidden_layers,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    numAttentionHeads: config.num_attention_heads,
    numKeyValueHeads,
    headDim,
    vocabSize: config.vocab_size,
    contextLength: contextOf(config),
    rmsNormEps: config.rms_norm_eps,
    ropeTheta: config.rope_theta,
    slidingWindow: config.sliding_window ?? undefined,
    tieWordEmbeddings: config.tie_word_embeddings,
  };
}

/**
 * LongRoPE turns keys by other factors in a sequence beyond the original context, by long ones for all its tokens. What
 * was cached before is turned by the short ones and means nothing any more. onnxruntime goes on all the same, its
 * graph takes the factors that the pass's length asks for; here a sequence ends where they change.
 */
function contextOf(config: z.infer<typeof schema>): number {
  const { max_position_embeddings: all, original_max_position_embeddings: original, rope_scaling } = config;
  return rope_scaling?.long_factor && original ? Math.min(original, all) : all;
}

/** f32 bytes that one token's keys and values take: 2 x layers x kv heads x head_dim x 4. */
export function kvBytesPerToken(config: ModelConfig): number {
  return 2 * config.numHiddenLayers * config.numKeyValueHeads * config.headDim * 4;
}
