import { ModelFileError } from "../src/errors.ts";
import { DataType } from "../src/model/onnx_proto.ts";
import type { DecoderWeights, FloatMatrix } from "./decoder_weights.ts";
import { BLOCK_SIZE, type NBitsMatrix } from "./nbits_matrix.ts";
import { MICROSOFT, type OnnxBuilder } from "./onnx_builder.ts";

const NAME = "model.embed_tokens.GatherBlockQuantized";

/** A token embedding that was added. */
export interface AddedEmbedding {
  /** Name of the embedded tokens, `[batch_size, sequence_length, hidden_size]`. */
  embedded: string;
  matrix: NBitsMatrix | FloatMatrix;
}

/** Adds the token embedding: a table of floats, or quantized where lm_head is the same bytes. */
export function addEmbedding(builder: OnnxBuilder, weights: DecoderWeights): AddedEmbedding {
  const matrix = weights.embedding();
  if ("pieces" in matrix) return { embedded: addTable(builder, matrix), matrix };
  return { embedded: matrix.bits === 8 ? addInt8(builder, matrix) : addInt4(builder, matrix), matrix };
}

function addTable(builder: OnnxBuilder, { rows, columns, pieces }: FloatMatrix): string {
  const elementBytes = builder.style.floatType === "f16" ? 2 : 4;
  const data = {
    byteLength: rows * columns * elementBytes,
    *pieces() {
      for (const piece of pieces()) yield builder.narrow(piece);
    },
  };
  const table = builder.tensor("model.embed_tokens.weight", builder.floatType, [rows, columns], data);
  return builder.op("Gather", "/model/embed_tokens/Gather", [table, "input_ids"]);
}

function addInt8(builder: OnnxBuilder, { rows, columns, qweight, scales }: NBitsMatrix): string {
  const inputs = [
    builder.tensor(`${NAME}.qweight`, DataType.UINT8, [rows, columns], qweight),
    "input_ids",
    builder.floats(`${NAME}.scales`, [rows, columns / BLOCK_SIZE], scales),
  ];
  return addGather(builder, inputs, 8);
}

/** As the builder ties them: lm_head's own constants, the weights reshaped to a row a token. */
function addInt4(builder: OnnxBuilder, matrix: NBitsMatrix): string {
  const { qweight, scales } = builder.matrix("/lm_head", matrix);
  const rows = builder.int64([matrix.rows, matrix.columns / 2]);
  const reshaped = builder.op("Reshape", "/model/embed_tokens/Reshape", [qweight, rows]);
  return addGather(builder, [reshaped, "input_ids", scales], 4);
}

function addGather(builder: OnnxBuilder, inputs: string[], bits: number): string {
  return builder.op("GatherBlockQuantized", "/model/embed_tokens/GatherBlockQuantized", inputs, {
    domain: MICROSOFT,
    attributes: { bits, block_size: BLOCK_SIZE, gather_axis: 0, quantize_axis: 1 },
  });
}

/** Logits, f32. A tied head is the embedding: the same bytes, in MatMulNBits's shape. */
export function addHead(
  builder: OnnxBuilder,
  weights: DecoderWeights,
  input: string,
  { matrix }: AddedEmbedding,
): void {
  const head = weights.head();
  const isHalf = builder.style.floatType === "f16";
  const output = isHalf ? builder.style.matMulNames("/lm_head").output : "logits";
  if (head !== "tied") builder.matMul("/lm_head", input, head, output);
  else if ("pieces" in matrix) {
    throw new ModelFileError("Cannot tie lm_head: the embedding is not quantized, wanted a quantized one");
  } else builder.matMulNode("/lm_head", input, tiedNames(builder, matrix), output, matrix);
  if (isHalf) {
    builder.node("Cast", "/lm_head/Cast", [output], ["logits"], { attributes: { to: DataType.FLOAT } });
  }
}

function tiedNames(builder: OnnxBuilder, matrix: NBitsMatrix) {
  const own = builder.style.matMulNames("/lm_head");
  // int4 is lm_head's own already.
  if (matrix.bits === 4) return { ...own, zeroPoints: undefined };
  const blocks = matrix.columns / BLOCK_SIZE;
  return {
    qweight: builder.alias(own.qweight, `${NAME}.qweight`, [matrix.rows, blocks, BLOCK_SIZE]),
    scales: builder.alias(own.scales, `${NAME}.scales`, [matrix.rows, blocks]),
    zeroPoints: undefined,
  };
}
