import type { DecoderGraph } from "../../model/decoder_graph.ts";
import { DataType, intAttribute, type OnnxModel, type OnnxNode, tensorValueInfo } from "../../model/onnx_proto.ts";

/** An input that the graph gets beside the model's own: int64 `[positions]`, where logits are wanted. */
export const LOGITS_POSITIONS = "logits_positions";

const PICKED = "/lm_head/positions/output_0";

/**
 * lm_head gets only the positions in the new input {@linkcode LOGITS_POSITIONS}, and the last hidden state becomes an
 * output: prefill wants the logits of one position, not of all. Where a Cast made f32 logits of f16 ones, lm_head makes
 * them itself.
 * @param model in f32
 * @param decoder what `model` was read as, before or after other steps
 */
export function pickPositions(model: OnnxModel, { head, hiddenStates }: DecoderGraph): OnnxModel {
  const { graph } = model;
  const [headOutput] = head.node.output;
  const gather: OnnxNode = {
    name: "/lm_head/positions",
    opType: "Gather",
    input: [hiddenStates, LOGITS_POSITIONS],
    output: [PICKED],
    attribute: [intAttribute("axis", 1)],
  };
  return {
    ...model,
    graph: {
      ...graph,
      node: graph.node.flatMap((node) => {
        const [output] = node.output;
        if (output === headOutput) {
          return [gather, { ...node, input: [PICKED, ...node.input.slice(1)], output: ["logits"] }];
        }
        return output === "logits" ? [] : [node];
      }),
      input: [...graph.input, tensorValueInfo(LOGITS_POSITIONS, DataType.INT64, ["positions"])],
      output: [
        // Its second dimension is no longer the sequence's.
        ...graph.output.map((output) =>
          output.name === "logits"
            ? tensorValueInfo("logits", DataType.FLOAT, ["batch_size", "positions", "vocab"])
            : output
        ),
        tensorValueInfo(hiddenStates, DataType.FLOAT, ["batch_size", "sequence_length", "hidden_size"]),
      ],
    },
  };
}
