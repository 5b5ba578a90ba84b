import { ModelFileError } from "../errors.ts";
import { AttributeType, type OnnxGraph, type OnnxNode, type OnnxTensor } from "./onnx_proto.ts";

/** A graph by the names in it: who makes a value, and which values are constants. */
export class GraphIndex {
  readonly #producers = new Map<string, OnnxNode>();
  readonly #constants: Map<string, OnnxTensor>;

  constructor(graph: OnnxGraph) {
    this.#constants = new Map(graph.initializer.map((tensor) => [tensor.name, tensor]));
    for (const node of graph.node) {
      for (const output of node.output) if (output !== "") this.#producers.set(output, node);
      const value = node.opType === "Constant" ? tensorOf(node) : undefined;
      if (value && node.output[0]) this.#constants.set(node.output[0], { ...value, name: node.output[0] });
    }
  }

  producer(value: string): OnnxNode | undefined {
    return this.#producers.get(value);
  }

  /** An initializer, or the value of a Constant node. */
  constant(value: string): OnnxTensor | undefined {
    return this.#constants.get(value);
  }
}

/** The value of a Constant node. */
function tensorOf(node: OnnxNode): OnnxTensor | undefined {
  return node.attribute.find(({ name }) => name === "value")?.t;
}

/** How a message calls a node. */
export const nodeName = ({ name, opType, output }: OnnxNode): string =>
  name || `${opType} of ${output[0] ?? "nothing"}`;

/** An integer attribute; `absent` where there is none. @throws {ModelFileError} where there is none and has to be one */
export function integer(node: OnnxNode, name: string, absent?: number): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT)?.i ?? absent;
  if (found === undefined) throw new ModelFileError(`Cannot use node ${nodeName(node)}: it has no attribute ${name}`);
  return found;
}

/** A float attribute; `absent` where there is none. */
export function number(node: OnnxNode, name: string, absent: number): number {
  return node.attribute.find((item) => item.name === name && item.type === AttributeType.FLOAT)?.f ?? absent;
}

/** @throws {ModelFileError} that names the node, what was found and what was wanted */
export function mustBe(node: OnnxNode, what: string, found: unknown, wanted: unknown): void {
  if (found === wanted) return;
  throw new ModelFileError(`Cannot use node ${nodeName(node)}: ${what} is ${String(found)}, wanted ${String(wanted)}`);
}
