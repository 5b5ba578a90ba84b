import { ModelFileError } from "../../errors.ts";
import { AttributeType, type OnnxNode } from "../../model/onnx_proto.ts";

/** An integer attribute. @throws {ModelFileError} when the node has none of that name */
export function integer(node: OnnxNode, name: string): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT);
  if (found?.i === undefined) throw new ModelFileError(`Cannot use node ${node.name}: it has no attribute ${name}`);
  return found.i;
}
