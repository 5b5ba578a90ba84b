import type { OnnxModel, OnnxNode } from "../../model/onnx_proto.ts";

/** Leaves what outputs are made of: nodes, initializers and inputs that nobody reads go. */
export function pruneGraph(model: OnnxModel): OnnxModel {
  const { graph } = model;
  const producers = new Map<string, OnnxNode>();
  for (const node of graph.node) for (const output of node.output) producers.set(output, node);
  const read = new Set<string>();
  const kept = new Set<OnnxNode>();
  const waiting = graph.output.map(({ name }) => name);
  for (let value = waiting.pop(); value !== undefined; value = waiting.pop()) {
    if (value === "" || read.has(value)) continue;
    read.add(value);
    const node = producers.get(value);
    if (!node || kept.has(node)) continue;
    kept.add(node);
    waiting.push(...node.input);
  }
  return {
    ...model,
    graph: {
      ...graph,
      node: graph.node.filter((node) => kept.has(node)),
      initializer: graph.initializer.filter(({ name }) => read.has(name)),
      input: graph.input.filter(({ name }) => read.has(name)),
      // Types and shapes of values that may be gone, or others now. onnxruntime infers them.
      valueInfo: [],
    },
  };
}
