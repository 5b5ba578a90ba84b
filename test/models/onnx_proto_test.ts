import assert from "node:assert/strict";
import { test } from "node:test";
import { ModelFileError } from "../../src/errors.ts";
import {
  AttributeType,
  DataType,
  decodeModel,
  encodeModel,
  floatAttribute,
  intAttribute,
  type OnnxModel,
  stringAttribute,
  tensorValueInfo,
} from "../../src/model/onnx_proto.ts";

const attribute = [
  intAttribute("axis", -1),
  intAttribute("end", 2 ** 63),
  floatAttribute("epsilon", 1e-5),
  stringAttribute("mode", "é"),
  { name: "split", type: AttributeType.INTS, ints: [1, 2 ** 40] },
];
const model: OnnxModel = {
  irVersion: 10,
  opsetImport: [{ domain: "", version: 21 }],
  graph: {
    name: "graph",
    node: [{ name: "node", opType: "Slice", input: ["x", ""], output: ["y"], attribute }],
    initializer: [{ name: "w", dataType: DataType.FLOAT, dims: [2], rawData: new Uint8Array(8).fill(7) }],
    input: [tensorValueInfo("x", DataType.INT64, ["batch_size", 3])],
    output: [tensorValueInfo("y", DataType.FLOAT, [])],
  },
};

test("decodeModel() gives back what encodeModel() wrote", () => {
  const bytes = encodeModel(model);
  const decoded = decodeModel(bytes);
  const [node] = decoded.graph.node;
  assert.deepEqual(node?.input, ["x", ""]);
  assert.deepEqual(node?.attribute.map(({ i }) => i).slice(0, 2), [-1, 2 ** 63]);
  assert.equal(node?.attribute[2]?.f, Math.fround(1e-5));
  assert.equal(new TextDecoder().decode(node?.attribute[3]?.s), "é");
  assert.deepEqual(node?.attribute[4]?.ints, [1, 2 ** 40]);
  assert.deepEqual([...decoded.graph.initializer[0]!.rawData!], new Array(8).fill(7));
  assert.deepEqual(decoded.graph.input[0]?.type?.tensorType?.shape?.dim, [
    { dimParam: "batch_size" },
    { dimValue: 3 },
  ]);
  assert.deepEqual(encodeModel(decoded), bytes);
});

test("decodeModel() refuses what is no model", () => {
  assert.throws(() => decodeModel(new Uint8Array([1, 2, 3])), ModelFileError);
  assert.throws(() => decodeModel(new Uint8Array(0)), ModelFileError);
});

test("decodeModel() refuses integers that a number cannot hold, but for the limits of int64", () => {
  const wide = {
    ...model,
    graph: { ...model.graph, node: [{ ...model.graph.node[0]!, attribute: [intAttribute("i", 2 ** 60)] }] },
  };
  assert.throws(() => decodeModel(encodeModel(wide)), ModelFileError);
});
