import assert from "node:assert/strict";
import { test } from "node:test";
import { GraphIndex } from "../../src/model/graph_index.ts";
import { DataType, intAttribute, type OnnxGraph, type OnnxNode, type OnnxTensor } from "../../src/model/onnx_proto.ts";
import { ShapeValues, type Value } from "../../src/model/shape_values.ts";

const int64 = (name: string, dims: number[], ...values: number[]): OnnxTensor => ({
  name,
  dataType: DataType.INT64,
  dims,
  rawData: new Uint8Array(BigInt64Array.from(values, BigInt).buffer),
});

/** One node over inputs `a`, `b`, … that are constants or given. */
function compute(opType: string, inputs: (OnnxTensor | Value)[], attribute: OnnxNode["attribute"] = []): Value {
  const names = inputs.map((_, i) => String.fromCharCode(97 + i));
  const node = { name: "it", opType, input: names, output: ["out"], attribute };
  const isTensor = (input: OnnxTensor | Value): input is OnnxTensor => "dataType" in input;
  const graph: OnnxGraph = {
    name: "",
    node: [node],
    initializer: inputs.flatMap((input, i) => isTensor(input) ? [{ ...input, name: names[i]! }] : []),
    input: [],
    output: [],
  };
  const given = inputs.flatMap((input, i) => isTensor(input) ? [] : [[names[i]!, input] as const]);
  const { dims, data } = new ShapeValues(new GraphIndex(graph), Object.fromEntries(given)).compute("out");
  return { dims, data: [...data!] };
}

test("ShapeValues computes what ONNX says of each operator", () => {
  const row = int64("", [3], 5, 6, 7);
  const matrix = int64("", [2, 3], 1, 2, 3, 4, 5, 6);
  const gives = (got: Value, dims: number[], ...data: number[]) => assert.deepEqual(got, { dims, data });
  gives(compute("Shape", [{ dims: [1, 4] }]), [2], 1, 4);
  gives(compute("Gather", [row, int64("", [], -1)], [intAttribute("axis", 0)]), [], 7);
  gives(compute("Unsqueeze", [row, int64("", [1], -1)]), [3, 1], 5, 6, 7);
  gives(compute("Squeeze", [int64("", [1, 2], 8, 9), int64("", [1], 0)]), [2], 8, 9);
  gives(compute("Concat", [row, int64("", [1], 1)], [intAttribute("axis", 0)]), [4], 5, 6, 7, 1);
  gives(compute("Range", [int64("", [], 2), int64("", [], 8), int64("", [], 3)]), [2], 2, 5);
  gives(compute("Slice", [row, int64("", [1], -2), int64("", [1], 99), int64("", [1], 0)]), [2], 6, 7);
  gives(compute("Reshape", [matrix, int64("", [2], -1, 2)]), [3, 2], 1, 2, 3, 4, 5, 6);
  gives(compute("Expand", [int64("", [2, 1], 1, 2), int64("", [3], 2, 1, 2)]), [2, 2, 2], 1, 1, 2, 2, 1, 1, 2, 2);
  gives(compute("Tile", [int64("", [1, 2], 1, 2), int64("", [2], 2, 2)]), [2, 4], 1, 2, 1, 2, 1, 2, 1, 2);
  gives(compute("ReduceSum", [int64("", [1, 3], 1, 1, 0), int64("", [1], 1)], [intAttribute("keepdims", 0)]), [1], 2);
  gives(compute("Cast", [row], [intAttribute("to", DataType.BOOL)]), [3], 1, 1, 1);
  gives(compute("Where", [int64("", [3], 1, 0, 1), row, int64("", [], 0)]), [3], 5, 0, 7);
  gives(compute("Less", [row, int64("", [2, 1], 6, 7)]), [2, 3], 1, 0, 0, 1, 1, 0);
  gives(compute("Sub", [matrix, row]), [2, 3], -4, -4, -4, -1, -1, -1);
  gives(compute("ConstantOfShape", [int64("", [2], 2, 2)]), [2, 2], 0, 0, 0, 0);
});

test("ShapeValues refuses, by the node's name, what it cannot or should not compute", () => {
  const refuses = (message: RegExp, ...args: Parameters<typeof compute>) =>
    assert.throws(() => compute(...args), { name: "ModelFileError", message });
  refuses(/node it: MatMul is no operator/, "MatMul", [int64("", [], 1), int64("", [], 1)]);
  refuses(/its shape is \[100000, 100000\]/, "ConstantOfShape", [int64("", [2], 100_000, 100_000)]);
  refuses(/its shape is \[-1\]/, "ConstantOfShape", [int64("", [1], -1)]);
  refuses(/shapes \[3\] and \[2\] do not go together/, "Add", [int64("", [3], 1, 2, 3), int64("", [2], 1, 2)]);
  refuses(/it reads element 4 of 1/, "Gather", [int64("", [1], 1), int64("", [], 4)]);
  refuses(/not known before a pass/, "Add", [{ dims: [2] }, int64("", [], 1)]);
  refuses(/wanted 3 numbers/, "Shape", [{ ...int64("", [3], 1), name: "a" }]);
});

test("ShapeValues does not grow without end, be it in one value, in many, or in dimensions", () => {
  /** `v0`, then nodes of `v0` and what was made before. */
  const chain = (first: OnnxTensor, nodes: number, node: (i: number) => Partial<OnnxNode>) => {
    const graph: OnnxGraph = {
      name: "",
      node: Array.from(
        { length: nodes },
        (_, i) => ({ name: `n${i}`, opType: "", input: [], output: [`v${i + 1}`], attribute: [], ...node(i) }),
      ),
      initializer: [{ ...first, name: "v0" }],
      input: [],
      output: [],
    };
    return new ShapeValues(new GraphIndex(graph), {}).compute(`v${nodes}`);
  };
  const refuses = (message: RegExp, ...args: Parameters<typeof chain>) =>
    assert.throws(() => chain(...args), { name: "ModelFileError", message });
  const doubled = (i: number) => ({ opType: "Concat", input: [`v${i}`, `v${i}`] });
  refuses(/node n23: its shape is \[16777216\]/, int64("", [1], 1), 60, doubled);
  refuses(
    /v4 makes it 33554433 numbers, wanted at most 33554432/,
    int64("", [1], 2 ** 23),
    6,
    (i) => i === 0 ? { opType: "ConstantOfShape", input: ["v0"] } : { opType: "Concat", input: [`v${i}`] },
  );
  const axes = int64("", [1000], ...new Array<number>(1000).fill(0));
  refuses(/node n0: it adds 1000 dimensions/, axes, 1, () => ({ opType: "Unsqueeze", input: ["v0", "v0"] }));
  const ones = int64("", [1000], ...new Array<number>(1000).fill(1));
  refuses(/node n0: its shape has 1000 dimensions/, ones, 1, () => ({ opType: "Expand", input: ["v0", "v0"] }));
  refuses(/tensor v0: 9 dimensions of 1 numbers/, int64("", new Array<number>(9).fill(1), 1), 0, () => ({}));
});

test("ShapeValues refuses values that are made of themselves", () => {
  const node = { name: "loop", opType: "Add", input: ["x", "x"], output: ["x"], attribute: [] };
  const graph: OnnxGraph = { name: "", node: [node], initializer: [], input: [], output: [] };
  assert.throws(() => new ShapeValues(new GraphIndex(graph), {}).compute("x"), {
    name: "ModelFileError",
    message: /loop/,
  });
});
