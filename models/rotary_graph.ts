import { AttributeType, type OnnxAttribute, type OnnxGraph, tensorValueInfo } from "../src/model/onnx_proto.ts";
import { bytesOf } from "./external_data.ts";
import { type ModelShape, rotaryDim } from "./model_shape.ts";
import { type OnnxBuilder, tensorAttribute } from "./onnx_builder.ts";
import { longRopeScale, rotaryCaches } from "./rotary.ts";

/** Names of the caches that every layer turns queries and keys by. */
export interface RotaryNames {
  cosCache: string;
  sinCache: string;
}

/**
 * Adds the cosines and sines, `[context_length, rotary_dim / 2]` each. Under LongRoPE an If takes those of the long
 * factors for every token of a pass that reaches beyond the original context, as onnxruntime-genai's builder has it:
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 * (`make_rotary_embedding_multi_cache`)
 * @param totalLength an int64 scalar, tokens of the sequence; only read under LongRoPE
 */
export function addRotaryCaches(builder: OnnxBuilder, shape: ModelShape, totalLength: string): RotaryNames {
  const names = { cosCache: "cos_cache", sinCache: "sin_cache" };
  const { longRope, contextLength, ropeTheta } = shape;
  const half = rotaryDim(shape) / 2;
  if (longRope === undefined) {
    const { cos, sin } = rotaryCaches(contextLength, rotaryDim(shape), ropeTheta);
    builder.floats(names.cosCache, [contextLength, half], cos);
    builder.floats(names.sinCache, [contextLength, half], sin);
    return names;
  }
  const { originalContextLength, shortFactors, longFactors } = longRope;
  const scale = longRopeScale(contextLength / originalContextLength, originalContextLength);
  const branch = (kind: string, length: number, factors: readonly number[]): OnnxAttribute["g"] =>
    constantGraph(`${kind}_rope_caches_graph`, builder, kind, [length, half], {
      ...rotaryCaches(length, rotaryDim(shape), ropeTheta, factors, scale),
    });
  const path = "/model/rope_caches_subgraph";
  const isLong = builder.op("Greater", `${path}/Greater`, [totalLength, builder.int64(originalContextLength)]);
  const graph = (name: string, g: OnnxAttribute["g"]): OnnxAttribute => ({ name, type: AttributeType.GRAPH, g: g! });
  builder.node("If", `${path}/If`, [isLong], [names.cosCache, names.sinCache], {
    attributes: {
      then_branch: graph("then_branch", branch("large", contextLength, longFactors)),
      else_branch: graph("else_branch", branch("small", originalContextLength, shortFactors)),
    },
  });
  return names;
}

/** A branch of two Constant nodes, which are its outputs. */
function constantGraph(
  name: string,
  builder: OnnxBuilder,
  kind: string,
  dims: number[],
  values: { cos: Float32Array; sin: Float32Array },
): OnnxGraph {
  const kinds = ["cos", "sin"] as const;
  return {
    name,
    input: [],
    initializer: [],
    output: kinds.map((wave) => tensorValueInfo(`${wave}_cache_${kind}`, builder.floatType, dims)),
    node: kinds.map((wave) => ({
      name: `/${kind}/${wave}_cache/Constant`,
      opType: "Constant",
      domain: "",
      input: [],
      output: [`${wave}_cache_${kind}`],
      attribute: [
        tensorAttribute("value", {
          name: "",
          dataType: builder.floatType,
          dims,
          rawData: bytesOf(builder.narrow(values[wave])),
        }),
      ],
    })),
  };
}
