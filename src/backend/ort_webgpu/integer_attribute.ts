import { ModelFileError } from "../../errors.ts";
import { AttributeType, type OnnxNode } from "../../model/onnx_proto.ts";

/** An integer attribute. @throws {ModelFileError} when the node has none of that name, and there is no default */
export function integer(node: OnnxNode, name: string, absent?: number): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT);
  const value = found?.i ?? absent;
  if (value === undefined) throw new ModelFileError(`Cannot use node ${node.name}: it has no attribute ${name}`);
  return value;
}
