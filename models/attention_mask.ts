/**
 * What a decoder graph makes of `attention_mask`, as onnxruntime-genai's builder writes it.
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 */
import { DataType } from "../src/model/onnx_proto.ts";
import { bytesOf } from "./external_data.ts";
import { type OnnxBuilder, tensorAttribute } from "./onnx_builder.ts";

const REFORMAT = "/model/attn_mask_reformat";
/** Largest finite numbers, negated: they hide a token. */
const HIDDEN = { f32: -3.4028234663852886e38, f16: -65504 } as const;
/** "To the end" of a slice. */
const TO_THE_END = 2n ** 63n - 1n;

/** Adds the lengths that GroupQueryAttention takes: int32 `[batch_size]`, tokens less one, and an int32 scalar, tokens. */
export function addLengths(builder: OnnxBuilder): { seqlensK: string; totalSequenceLength: string } {
  const mask = `${REFORMAT}/attn_mask_subgraph`;
  const sum = builder.op("ReduceSum", `${mask}/ReduceSum`, ["attention_mask", builder.int64([1])], {
    attributes: { keepdims: 0 },
  });
  const last = builder.op("Sub", `${mask}/Sub`, [sum, builder.int64([1])]);
  const dims = builder.op("Shape", `${mask}/Shape`, ["attention_mask"]);
  const total = builder.op("Gather", `${mask}/Gather`, [dims, builder.int64(1)], { attributes: { axis: 0 } });
  const toInt32 = { attributes: { to: DataType.INT32 } };
  return {
    seqlensK: builder.op("Cast", `${mask}/Sub/Cast`, [last], toInt32),
    totalSequenceLength: builder.op("Cast", `${mask}/Gather/Cast`, [total], toInt32),
  };
}

/**
 * Adds the causal mask that MultiHeadAttention adds to its scores, `[batch_size, heads, sequence_length,
 * total_sequence_length]`: 0 where a token is seen. It knows no window, and is made for a whole prompt or for one token
 * on a past: several tokens on a past fail in its Expand.
 * @returns its name
 */
export function addCausalMask(builder: OnnxBuilder, heads: number): string {
  const mask = new MaskBuilder(builder);
  const pastShape = builder.op("Shape", `${REFORMAT}/past_key_subgraph/Shape`, ["past_key_values.0.key"]);
  const past = mask.gather(`${REFORMAT}/past_key_subgraph/Gather`, pastShape, 2);
  const ids = mask.lengths(`${REFORMAT}/input_ids_subgraph`, "input_ids");
  const totalLength = builder.op("Add", `${ids.path}/Add_1`, [ids.length, past]);
  const total = mask.unsqueeze(`${ids.path}/Unsqueeze_3`, totalLength, 0);
  const sequence = mask.unsqueeze(`${ids.path}/Unsqueeze_6`, ids.length, 0);
  const triangle = mask.expand(ids.path, "_1", mask.triangle(ids.path, ids.length), [ids.batch, sequence, total]);

  const attention = mask.lengths(`${REFORMAT}/attn_mask_subgraph`, "attention_mask");
  const { path } = attention;
  const rows = mask.unsqueeze(`${path}/Unsqueeze_3`, "attention_mask", 1);
  const padding = mask.padding(
    path,
    mask.expand(path, "", mask.unsqueeze(`${path}/Unsqueeze_4`, rows, 2), [
      attention.batch,
      sequence,
      mask.unsqueeze(`${path}/Unsqueeze_2`, attention.length, 0),
    ]),
  );
  const sum = builder.op("Add", `${REFORMAT}/Add`, [padding, triangle]);
  return builder.op("Tile", `${REFORMAT}/Tile`, [sum, builder.int64([1, heads, 1, 1])]);
}

/** Parts of the mask's graph. Each adds nodes below a path and returns the name of a value. */
class MaskBuilder {
  readonly #builder: OnnxBuilder;

  constructor(builder: OnnxBuilder) {
    this.#builder = builder;
  }

  gather(name: string, shape: string, index: number): string {
    return this.#builder.op("Gather", name, [shape, this.#builder.int64(index)], { attributes: { axis: 0 } });
  }

  unsqueeze(name: string, value: string, axis: number): string {
    return this.#builder.op("Unsqueeze", name, [value, this.#builder.int64([axis])]);
  }

  /** The two dimensions of an input: the first as a vector, the second as a scalar. */
  lengths(path: string, input: string): { path: string; batch: string; length: string } {
    const [first, second] = [1, 2].map((i) => this.#builder.op("Shape", `${path}/Shape_${i}`, [input]));
    const batch = this.gather(`${path}/Gather_1`, first!, 0);
    const length = this.gather(`${path}/Gather_2`, second!, 1);
    return { path, batch: this.unsqueeze(`${path}/Unsqueeze_1`, batch, 0), length };
  }

  /** `[1, 1, length, length]`: 0 on and below the diagonal. */
  triangle(path: string, length: string): string {
    const builder = this.#builder;
    const sides = [4, 5].map((i) => this.unsqueeze(`${path}/Unsqueeze_${i}`, length, 0));
    const square = builder.op("Concat", `${path}/Concat_2`, sides, { attributes: { axis: 0 } });
    const hidden = this.#filled(
      `${path}/ConstantOfShape_2`,
      square,
      HIDDEN[builder.style.floatType],
      builder.floatType,
    );
    const side = (i: number) => {
      const shape = builder.op("Shape", `${path}/Shape_${i + 3}`, [hidden]);
      const bounds = [-1n, TO_THE_END, 0n].map((value) => builder.int64([value]));
      const slice = builder.op("Slice", `${path}/Slice_${i}`, [shape, ...bounds]);
      return builder.op("Squeeze", `${path}/Squeeze_${i}`, [slice, builder.int64([0])]);
    };
    const height = this.unsqueeze(`${path}/Unsqueeze_7`, side(1), 0);
    const column = builder.op("Concat", `${path}/Concat_3`, [height, builder.int64([1])], { attributes: { axis: 0 } });
    const positions = builder.op("Range", `${path}/Range`, [builder.int64(0), side(2), builder.int64(1)]);
    const ends = builder.op("Add", `${path}/Add_2`, [positions, builder.int64(1)]);
    const seen = builder.op("Less", `${path}/Less`, [
      positions,
      builder.op("Reshape", `${path}/Reshape`, [ends, column]),
    ]);
    const triangle = builder.op("Where", `${path}/Where_2`, [seen, builder.scalar(0), hidden]);
    return this.unsqueeze(`${path}/Unsqueeze_9`, this.unsqueeze(`${path}/Unsqueeze_8`, triangle, 0), 1);
  }

  /** `value` expanded to `[batch, 1, rows, columns]`, given as vectors. */
  expand(path: string, suffix: string, value: string, [batch, rows, columns]: [string, string, string]): string {
    const builder = this.#builder;
    const dims = [batch, builder.int64([1]), rows, columns];
    const shape = builder.op("Concat", `${path}/Concat${suffix}`, dims, { attributes: { axis: 0 } });
    const rank = builder.op("Shape", `${path}/Shape_3`, [shape]);
    const ones = this.#filled(`${path}/ConstantOfShape${suffix}`, rank, 1, DataType.INT64);
    const negative = builder.op("Mul", `${path}/Mul`, [ones, builder.int64(-1)]);
    const free = builder.op("Equal", `${path}/Equal`, [shape, negative]);
    const target = builder.op("Where", `${path}/Where_1`, [free, ones, shape]);
    return builder.op("Expand", `${path}/Expand`, [value, target]);
  }

  /** 0 where `attention_mask` is 1, else the lowest number. */
  padding(path: string, expanded: string): string {
    const builder = this.#builder;
    const floats = builder.op("Cast", `${path}/Cast_1`, [expanded], { attributes: { to: builder.floatType } });
    const inverted = builder.op("Sub", `${path}/Sub`, [builder.scalar(1), floats]);
    const hidden = builder.op("Cast", `${path}/Cast_2`, [inverted], { attributes: { to: DataType.BOOL } });
    return builder.op("Where", `${path}/Where_2`, [hidden, builder.scalar(HIDDEN[builder.style.floatType]), inverted]);
  }

  /** A tensor of one value, whose shape `dims` says. */
  #filled(name: string, dims: string, value: number, dataType: number): string {
    const data = dataType === DataType.INT64
      ? BigInt64Array.of(BigInt(value))
      : this.#builder.narrow(Float32Array.of(value));
    const tensor = tensorAttribute("value", { name: "", dataType, dims: [1], rawData: bytesOf(data) });
    return this.#builder.op("ConstantOfShape", name, [dims], { attributes: { value: tensor } });
  }
}
