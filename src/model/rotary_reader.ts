import { ModelFileError } from "../errors.ts";
import { GraphIndex, nodeName } from "./graph_index.ts";
import type { GraphReader } from "./graph_reader.ts";
import type { ModelConfig } from "./model_config.ts";
import { DataType, type OnnxGraph, type OnnxNode, type OnnxTensor } from "./onnx_proto.ts";
import { ShapeValues } from "./shape_values.ts";

/** Cosines and sines, f32 or f16 `[positions, rotary_dim / 2]` each. */
export interface RotaryCaches {
  cos: OnnxTensor;
  sin: OnnxTensor;
}

/** What queries and keys are turned by. */
export interface Rotary extends RotaryCaches {
  /** Numbers of each head that are turned, the first ones. */
  dim: number;
  /** The If that takes other caches for longer sequences, under LongRoPE. `cos` and `sin` are those for up to `until`. */
  choice: { node: OnnxNode; until: number } | undefined;
}

/**
 * Reads what the names `cos` and `sin` mean: constants, or what an If makes of the sequence's length.
 * @throws {ModelFileError} when they are of another shape, too short for the context, or the If asks something else
 */
export function readRotary(reader: GraphReader, cos: string, sin: string, config: ModelConfig): Rotary {
  const node = reader.index.producer(cos);
  if (node?.opType !== "If" || node.domain) {
    const caches = { cos: requireTensor(reader.index, cos), sin: requireTensor(reader.index, sin) };
    return { ...caches, dim: checkCaches(caches, config), choice: undefined };
  }
  const isLong = (tokens: number) => {
    const attention_mask = { dims: [1, tokens] };
    const input_ids = { dims: [1, 1] };
    return Boolean(new ShapeValues(reader.index, { attention_mask, input_ids }).compute(node.input[0] ?? "").data?.[0]);
  };
  const branches = [branch(node, isLong(1), cos, sin), branch(node, !isLong(1), cos, sin)] as const;
  const until = branches[0].cos.dims[0] ?? 0;
  if (isLong(until) !== isLong(1) || isLong(until + 1) === isLong(1)) {
    throw new ModelFileError(
      `Cannot use node ${
        nodeName(node)
      }: it does not change caches after ${until} tokens, which is what the first have`,
    );
  }
  const dim = checkCaches(branches[0], config);
  if (branches[1].cos.dims[1] !== dim / 2) {
    throw new ModelFileError(`Cannot use node ${nodeName(node)}: its branches turn unlike parts of a head`);
  }
  return { ...branches[0], dim, choice: { node, until } };
}

function branch(node: OnnxNode, then: boolean, cos: string, sin: string): RotaryCaches {
  const name = then ? "then_branch" : "else_branch";
  const graph: OnnxGraph | undefined = node.attribute.find((attribute) => attribute.name === name)?.g;
  if (!graph) throw new ModelFileError(`Cannot use node ${nodeName(node)}: it has no ${name}`);
  const index = new GraphIndex(graph);
  const output = (value: string) => graph.output[node.output.indexOf(value)]?.name ?? "";
  return { cos: requireTensor(index, output(cos)), sin: requireTensor(index, output(sin)) };
}

function requireTensor(index: GraphIndex, name: string): OnnxTensor {
  const tensor = index.constant(name);
  if (!tensor) throw new ModelFileError(`Cannot use the graph: rotary cache ${name || "of an If"} is no constant`);
  return tensor;
}

/** @returns the numbers of a head that they turn */
function checkCaches({ cos, sin }: RotaryCaches, { contextLength, headDim }: ModelConfig): number {
  const [positions = 0, half = 0] = cos.dims;
  const isFloat = cos.dataType === DataType.FLOAT || cos.dataType === DataType.FLOAT16;
  const fits = cos.dims.length === 2 && positions >= contextLength && half > 0 && half <= headDim / 2;
  if (isFloat && fits && sin.dataType === cos.dataType && sin.dims.join() === cos.dims.join()) return 2 * half;
  throw new ModelFileError(
    `Cannot use rotary caches ${cos.name} [${cos.dims.join(", ")}] of type ${cos.dataType} and ${sin.name} ` +
      `[${sin.dims.join(", ")}] of type ${sin.dataType}, wanted two alike, of floats, ` +
      `for ${contextLength} positions and at most ${headDim / 2} angles`,
  );
}
