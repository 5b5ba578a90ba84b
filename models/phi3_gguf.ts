/**
 * Phi-3 as llama.cpp's converter writes it, quantized to Q4_0. Fused projections stay fused; gate comes before up.
 * https://github.com/ggml-org/llama.cpp/blob/master/conversion/phi.py (`Phi3MiniModel`)
 */
import { ModelFileError } from "../src/errors.ts";
import type { DecoderWeights } from "./decoder_weights.ts";
import { numberToFloat16 } from "../src/model/float16.ts";
import { GgmlType } from "./gguf_source.ts";
import type { GgufTensorSource, GgufValue } from "./gguf_writer.ts";
import type { NBitsMatrix } from "./nbits_matrix.ts";
import type { Phi3Shape } from "./phi3_shape.ts";
import { PHI3_CHAT_TEMPLATE, type Phi3Tokenizer } from "./phi3_tokenizer.ts";
import { packQ4_0 } from "./q4_0.ts";
import { FIRST_BYTE, FIRST_MERGED } from "./synthetic_vocabulary.ts";

/** `LLAMA_FTYPE_MOSTLY_Q4_0`. */
const MOSTLY_Q4_0 = 2;
/** `tokenizer.ggml.token_type`. */
const TokenType = { NORMAL: 1, UNKNOWN: 2, CONTROL: 3, USER_DEFINED: 4, UNUSED: 5, BYTE: 6 } as const;

const uint32 = (value: number): GgufValue => ({ type: "uint32", value });
const float32 = (value: number): GgufValue => ({ type: "float32", value });
const string = (value: string): GgufValue => ({ type: "string", value });

/**
 * Metadata in the converter's order. llama.cpp reads the window but does not apply it to Phi-3:
 * up to `slidingWindow` tokens both formats mean the same.
 */
export function phi3GgufMetadata(
  name: string,
  shape: Phi3Shape,
  tokenizer: Phi3Tokenizer,
): Map<string, GgufValue> {
  const { bos_token_id, eos_token_id, pad_token_id } = tokenizer.roles;
  return new Map<string, GgufValue>([
    ["general.architecture", string("phi3")],
    ["general.type", string("model")],
    ["general.name", string(name)],
    ["phi3.context_length", uint32(shape.contextLength)],
    ["phi3.rope.scaling.original_context_length", uint32(shape.contextLength)],
    ["phi3.embedding_length", uint32(shape.hiddenSize)],
    ["phi3.feed_forward_length", uint32(shape.intermediateSize)],
    ["phi3.block_count", uint32(shape.numHiddenLayers)],
    ["phi3.attention.head_count", uint32(shape.numAttentionHeads)],
    ["phi3.attention.head_count_kv", uint32(shape.numKeyValueHeads)],
    ["phi3.attention.layer_norm_rms_epsilon", float32(shape.rmsNormEps)],
    ["phi3.rope.dimension_count", uint32(shape.headDim)],
    ["phi3.rope.freq_base", float32(shape.ropeTheta)],
    ["general.file_type", uint32(MOSTLY_Q4_0)],
    ["phi3.attention.sliding_window", uint32(shape.slidingWindow)],
    ["tokenizer.ggml.model", string("llama")],
    ["tokenizer.ggml.pre", string("default")],
    ...tokenLists(shape.vocabSize, tokenizer),
    ["tokenizer.ggml.bos_token_id", uint32(bos_token_id)],
    ["tokenizer.ggml.eos_token_id", uint32(eos_token_id[0]!)],
    ["tokenizer.ggml.unknown_token_id", uint32(0)],
    ["tokenizer.ggml.padding_token_id", uint32(pad_token_id)],
    ["tokenizer.ggml.add_bos_token", { type: "bool", value: true }],
    ["tokenizer.ggml.add_eos_token", { type: "bool", value: false }],
    ["tokenizer.chat_template", string(PHI3_CHAT_TEMPLATE)],
    ["general.quantization_version", uint32(2)],
  ]);
}

/** Tokens with the scores that SentencePiece would give: merges go from the highest score down. */
function tokenLists(vocabSize: number, { tokens, added }: Phi3Tokenizer): [string, GgufValue][] {
  const texts = Array.from({ length: vocabSize }, (_, id) => tokens[id] ?? `[PAD${id}]`);
  const scores = texts.map((_, id) => {
    if (id >= tokens.length) return -10_000;
    return id < FIRST_MERGED ? 0 : FIRST_MERGED - id;
  });
  const types: number[] = texts.map((_, id) => {
    if (id >= tokens.length) return TokenType.UNUSED;
    return id >= FIRST_BYTE && id < FIRST_MERGED ? TokenType.BYTE : TokenType.NORMAL;
  });
  for (const { id, content, special } of added) {
    texts[id] = content;
    scores[id] = -1000;
    types[id] = special ? TokenType.CONTROL : TokenType.USER_DEFINED;
  }
  return [
    ["tokenizer.ggml.tokens", { type: "array", of: "string", value: texts }],
    ["tokenizer.ggml.scores", { type: "array", of: "float32", value: scores }],
    ["tokenizer.ggml.token_type", { type: "array", of: "int32", value: types }],
  ];
}

/** All tensors in the order of the graph, each made when it is written: matrices Q4_0, embedding F16, norms F32. */
export function phi3GgufTensors(weights: DecoderWeights, shape: Phi3Shape): GgufTensorSource[] {
  const { hiddenSize, intermediateSize, vocabSize, numAttentionHeads, numKeyValueHeads, headDim } = shape;
  const attention = numAttentionHeads * headDim;
  const qkv = attention + 2 * numKeyValueHeads * headDim;
  const layers = Array.from({ length: shape.numHiddenLayers }, (_, layer) => {
    const name = (kind: string) => `blk.${layer}.${kind}.weight`;
    return [
      vector(name("attn_norm"), hiddenSize, () => weights.attentionNorm(layer)),
      matrix(name("attn_qkv"), qkv, hiddenSize, () => weights.qkv(layer)),
      matrix(name("attn_output"), hiddenSize, attention, () => weights.attentionOutput(layer)),
      vector(name("ffn_norm"), hiddenSize, () => weights.mlpNorm(layer)),
      matrix(name("ffn_up"), 2 * intermediateSize, hiddenSize, () => weights.gateUp(layer)),
      matrix(name("ffn_down"), hiddenSize, intermediateSize, () => weights.down(layer)),
    ];
  });
  return [
    {
      name: "token_embd.weight",
      type: GgmlType.F16,
      dims: [vocabSize, hiddenSize],
      pieces: () => halfPieces(weights),
    },
    ...layers.flat(),
    vector("output_norm.weight", hiddenSize, () => weights.finalNorm()),
    matrix("output.weight", vocabSize, hiddenSize, () => headOf(weights)),
  ];
}

function matrix(name: string, rows: number, columns: number, make: () => NBitsMatrix): GgufTensorSource {
  return { name, type: GgmlType.Q4_0, dims: [rows, columns], pieces: () => [packQ4_0(make())] };
}

function vector(name: string, size: number, make: () => Float32Array): GgufTensorSource {
  return { name, type: GgmlType.F32, dims: [size], pieces: () => [make()] };
}

function* halfPieces(weights: DecoderWeights): Generator<Uint16Array> {
  const embedding = weights.embedding();
  if (!("pieces" in embedding)) throw new ModelFileError("Cannot write token_embd: it is quantized, wanted f32");
  for (const piece of embedding.pieces()) yield Uint16Array.from(piece, numberToFloat16);
}

function headOf(weights: DecoderWeights): NBitsMatrix {
  const head = weights.head();
  if (head === "tied") throw new ModelFileError("Cannot write output.weight: it is tied, wanted a matrix of its own");
  return head;
}
