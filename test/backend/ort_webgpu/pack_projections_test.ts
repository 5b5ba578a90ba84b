import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { GpuGraph } from "../../../src/backend/ort_webgpu/gpu_graph.ts";
import { packProjections } from "../../../src/backend/ort_webgpu/pack_projections.ts";
import { DataType, intAttribute, type OnnxNode } from "../../../src/model/onnx_proto.ts";

const ROWS = { q: 4, k: 2, v: 2 };

/** q, k and v of 64 inputs, row r of each matrix all r; attention reads them. */
function projections(): GpuGraph {
  const graph: GpuGraph = { nodes: [], tensors: new Map(), data: new Map(), inputs: [], outputs: [] };
  for (const [name, rows] of Object.entries(ROWS)) {
    const add = (kind: string, dataType: number, dims: number[], rowBytes: number) => {
      graph.tensors.set(`${name}.${kind}`, { name: `${name}.${kind}`, dataType, dims });
      const bytes = Uint8Array.from({ length: rows * rowBytes }, (_, i) => Math.floor(i / rowBytes));
      const read = (at: number, into: Uint8Array) => into.set(bytes.subarray(at, at + into.length));
      graph.data.set(`${name}.${kind}`, { dataType, bytes: { length: bytes.length, read } });
    };
    add("qweight", DataType.UINT8, [rows, 2, 16], 32);
    add("scales", DataType.FLOAT16, [rows * 2], 4);
    add("zeros", DataType.UINT8, [rows], 1);
    graph.nodes.push({
      name,
      opType: "MatMulNBits",
      input: ["x", `${name}.qweight`, `${name}.scales`, `${name}.zeros`],
      output: [`${name}_out`],
      attribute: [intAttribute("N", rows), intAttribute("K", 64), intAttribute("bits", 4)],
    });
  }
  const input = ["q_out", "k_out", "v_out", "past_k"];
  graph.nodes.push({ name: "attention", opType: "GroupQueryAttention", input, output: ["y"], attribute: [] });
  return graph;
}

describe("packProjections()", () => {
  test("makes one product of the rows of q, k and v, in this order", () => {
    const graph = projections();
    packProjections(graph);
    const [product, attention] = graph.nodes;
    assert.equal(graph.nodes.length, 2);
    assert.deepEqual(attention!.input, [product!.output[0], "", "", "past_k"]);
    assert.equal(product!.attribute.find(({ name }) => name === "N")!.i, 8);
    const [x, ...constants] = product!.input;
    assert.equal(x, "x");
    const wanted = [0, 1, 2, 3, 0, 1, 0, 1];
    for (
      const [i, { dims, rowBytes }] of [{ dims: [8, 2, 16], rowBytes: 32 }, { dims: [16], rowBytes: 4 }, {
        dims: [8],
        rowBytes: 1,
      }].entries()
    ) {
      const name = constants[i]!;
      assert.deepEqual(graph.tensors.get(name)!.dims, dims);
      const { bytes } = graph.data.get(name)!;
      const whole = new Uint8Array(bytes.length);
      bytes.read(0, whole);
      assert.deepEqual([...whole], wanted.flatMap((row) => Array(rowBytes).fill(row)));
    }
  });

  const unlike: Record<string, (v: OnnxNode, graph: GpuGraph) => void> = {
    "of another accuracy": (v) => v.attribute.push(intAttribute("accuracy_level", 4)),
    "of another input": (v) => v.input[0] = "z",
    "without zero points": (v) => v.input[3] = "",
    "another operator": (v) => v.opType = "MatMul",
    "of scales of another type": (_, { data, tensors }) => {
      data.get("v.scales")!.dataType = DataType.FLOAT;
      tensors.get("v.scales")!.dataType = DataType.FLOAT;
    },
  };
  for (const [how, change] of Object.entries(unlike)) {
    test(`leaves them where one is ${how}`, () => {
      const graph = projections();
      change(graph.nodes[2]!, graph);
      const before = [...graph.nodes];
      packProjections(graph);
      assert.deepEqual(graph.nodes, before);
    });
  }
});
