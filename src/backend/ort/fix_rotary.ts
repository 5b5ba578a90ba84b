import type { DecoderGraph } from "../../model/decoder_graph.ts";
import type { OnnxModel } from "../../model/onnx_proto.ts";

/**
 * Puts LongRoPE's first caches in place of the If that chooses: sequences end where it would take the others, see
 * `contextOf` in `model_config.ts`. Other graphs stay as they are.
 * @param decoder what `model` was read as
 */
export function fixRotary(model: OnnxModel, decoder: DecoderGraph): OnnxModel {
  const { rotary, layers } = decoder;
  if (!rotary.choice) return model;
  const { node: choice } = rotary.choice;
  const { cos, sin } = layers[0]!.attention;
  const { graph } = model;
  return {
    ...model,
    graph: {
      ...graph,
      node: graph.node.filter((node) => node !== choice),
      initializer: [...graph.initializer, { ...rotary.cos, name: cos }, { ...rotary.sin, name: sin }],
    },
  };
}
