import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import fc from "fast-check";
import { DiskStore } from "../../models/file_store.ts";
import type { Phi3Size } from "../../models/phi3_shape.ts";
import { type Layout, LAYOUTS, syntheticOnnxPath, writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { ModelFileError } from "../../src/errors.ts";
import { readDecoderGraph } from "../../src/model/decoder_graph.ts";
import { GraphReader } from "../../src/model/graph_reader.ts";
import { type ModelConfig, parseModelConfig } from "../../src/model/model_config.ts";
import { DataType, decodeModel, encodeModel, intAttribute, type OnnxModel } from "../../src/model/onnx_proto.ts";
import { readOnnx } from "../../src/model/read_onnx.ts";
import { TensorFiles } from "../../src/model/tensor_bytes.ts";

const root = mkdtempSync(join(tmpdir(), "hearth-graphs-"));
after(() => rmSync(root, { recursive: true }));

function make(size: Phi3Size, layout: Layout): { path: string; config: ModelConfig } {
  const folder = join(root, `${size}-${layout}`);
  using store = new DiskStore(folder);
  writeSyntheticOnnx(store, { size, seed: 1 }, layout);
  return {
    path: join(folder, syntheticOnnxPath(size, layout)),
    config: parseModelConfig(JSON.parse(readFileSync(join(folder, "config.json"), "utf8"))),
  };
}

const layouts = Object.keys(LAYOUTS) as Layout[];
const tiny = Object.fromEntries(layouts.map((layout) => [layout, make("tiny", layout)]));
const read = ({ path, config }: { path: string; config: ModelConfig }) => readDecoderGraph(readOnnx(path), config);

describe("readDecoderGraph()", () => {
  test("understands every layout: products, window, rotary embedding", () => {
    for (const layout of layouts) {
      const graph = read(tiny[layout]!);
      const isMha = LAYOUTS[layout].style.attention === "mha";
      assert.deepEqual(
        graph.layers.map(({ attention, gateUp }) => [attention.qkv.length, gateUp.length]),
        [[isMha ? 3 : 1, 2], [isMha ? 3 : 1, 2]],
      );
      assert.equal(graph.window, isMha ? undefined : 255, layout);
      assert.deepEqual([graph.rotary.dim, graph.rotary.choice, graph.tied], [32, undefined, false]);
    }
  });

  test("understands LongRoPE, a part of a head that is turned, and a tied int4 embedding", () => {
    const long = read(make("tiny-longrope", "genai"));
    assert.deepEqual([long.rotary.dim, long.rotary.choice?.until, long.rotary.cos.dims], [32, 128, [128, 16]]);
    const phi4 = read(make("tiny-phi-4", "genai"));
    assert.deepEqual([phi4.rotary.dim, phi4.rotary.choice?.until, phi4.tied], [48, 128, true]);
    assert.equal("node" in phi4.embedding && phi4.embedding.bits, 4);
  });

  test("says which node differs, what it is and what was wanted", () => {
    const { path, config } = tiny.xenova!;
    const refuses = (change: (model: OnnxModel) => void, message: RegExp, of = config) => {
      const model = readOnnx(path);
      change(model);
      assert.throws(() => readDecoderGraph(model, of), { name: "ModelFileError", message });
    };
    const node = (model: OnnxModel, name: string) => model.graph.node.find((item) => item.name.endsWith(name))!;
    const attribute = (model: OnnxModel, name: string, key: string) =>
      node(model, name).attribute.find((item) => item.name === key)!;
    const wide = { ...config, hiddenSize: 128 };
    refuses(() => {}, /node \/lm_head\/MatMul_Q4: K of lm_head is 64, wanted 128/, wide);
    const endless = { ...config, contextLength: 2 ** 40 };
    refuses(() => {}, /the context of its mask is 1099511627776 tokens, wanted at most 8388608/, endless);
    refuses(
      (model) => attribute(model, "layers.1/mlp/up_proj/MatMul_Q4", "block_size").i = 16,
      /up_proj.* block_size is 16, wanted 32/,
    );
    refuses(
      (model) => attribute(model, "layers.0/attn/MultiHeadAttention", "scale").f = 1,
      /layers\.0.* scale is 1, wanted 0\.17/,
    );
    refuses(
      (model) => node(model, "layers.1/mlp/act_fn/Sigmoid").opType = "Tanh",
      /act_fn\/Sigmoid is Tanh, wanted Sigmoid/,
    );
    refuses(
      (model) => node(model, "attn_mask_reformat/input_ids_subgraph/Less").opType = "Greater",
      /its mask adds .* to what token \d+ sees/,
    );
    refuses(
      (model) => node(model, "attn_mask_reformat/Add").opType = "Attention",
      /Add: Attention is no operator of masks/,
    );
    refuses(
      (model) => model.graph.initializer.find(({ name }) => name === "cos_cache")!.dims = [256, 32],
      /rotary caches cos_cache \[256, 32\]/,
    );
    refuses((model) => node(model, "k_rotary/RotaryEmbedding").input[1] = "input_ids", /wanted/);
  });

  test("refuses products of rows that are no whole blocks, though their bytes may be", () => {
    const [n, k] = [64, 48];
    const numbers = { N: n, K: k, bits: 4, block_size: 32 };
    const attribute = Object.entries(numbers).map(([name, i]) => intAttribute(name, i));
    const [input, output] = [["x", "q", "s"], ["y"]];
    const node = { name: "it", opType: "MatMulNBits", domain: "com.microsoft", input, output, attribute };
    const initializer = [
      { name: "q", dataType: DataType.UINT8, dims: [n * k / 2] },
      { name: "s", dataType: DataType.FLOAT, dims: [n * k / 32] },
    ];
    const reader = new GraphReader({ name: "", node: [node], initializer, input: [], output: [] });
    assert.throws(() => reader.product("y", "up_proj", n, k), {
      name: "ModelFileError",
      message: /node it: what is left of 48 columns after blocks of 32 is 16, wanted 0/,
    });
  });

  test("refuses attention of another kind", () => {
    const { path, config } = tiny.genai!;
    for (const [name, i] of [["smooth_softmax", 1], ["rotary_interleaved", 1]] as const) {
      const model = readOnnx(path);
      const attention = model.graph.node.find(({ opType }) => opType === "GroupQueryAttention")!;
      attention.attribute = [...attention.attribute.filter((item) => item.name !== name), intAttribute(name, i)];
      const message = new RegExp(`${name} is 1, wanted 0`);
      assert.throws(() => readDecoderGraph(model, config), { name: "ModelFileError", message });
    }
  });

  test("sees a window that a mask hides in", () => {
    const { path, config } = tiny.xenova!;
    const model = readOnnx(path);
    // seen = position < end and position >= 3, as a product of the two.
    const less = model.graph.node.find(({ name }) => name.endsWith("attn_mask_subgraph/Expand"))!;
    const at = model.graph.node.indexOf(less);
    const far = {
      ...less,
      name: "far",
      opType: "Mul",
      input: ["attention_mask", "attention_mask"],
      output: ["squared"],
    };
    const gone = { ...less, name: "gone", opType: "Sub", input: ["squared", "attention_mask"], output: ["none"] };
    model.graph.node.splice(at, 0, { ...far, attribute: [] }, { ...gone, attribute: [] });
    model.graph.node.find(({ name }) => name.endsWith("attn_mask_subgraph/Unsqueeze_3"))!.input[0] = "none";
    assert.throws(() => readDecoderGraph(model, config), { name: "ModelFileError", message: /its mask adds/ });
  });

  test("refuses a graph in which any one node is another, by that node's name", () => {
    for (const layout of ["genai", "web"] as const) {
      const { path, config } = tiny[layout]!;
      const count = readOnnx(path).graph.node.length;
      for (let i = 0; i < count; i++) {
        const model = readOnnx(path);
        const node = model.graph.node[i]!;
        node.opType = "Erf";
        assert.throws(() => readDecoderGraph(model, config), ModelFileError, node.name);
      }
    }
  });

  test("answers whatever is done to a graph with a decoder or a ModelFileError", () => {
    const sources = ["genai", "web", "xenova"].map((layout) => tiny[layout]!);
    const nat = fc.nat(10_000);
    const odd = fc.constantFrom(-1, 0, 1, 2 ** 31, 2 ** 53 - 1, 7);
    fc.assert(
      fc.property(
        fc.constantFrom(...sources),
        fc.array(fc.tuple(fc.nat(5), nat, nat, odd), { maxLength: 3 }),
        (source, damages) => {
          const model = readOnnx(source.path);
          const { node, initializer } = model.graph;
          const pick = <T>(items: readonly T[], i: number) => items[i % items.length];
          for (const [kind, i, j, value] of damages) {
            const [one, other, tensor] = [pick(node, i)!, pick(node, j)!, pick(initializer, j)!];
            const attribute = pick(one.attribute, j);
            if (kind === 0) one.input[j % (one.input.length || 1)] = pick(other.output, i) ?? "";
            if (kind === 1 && attribute) attribute.i = value;
            if (kind === 2) tensor.dims[0] = value;
            if (kind === 3) node.splice(i % node.length, 1);
            if (kind === 4) one.output = [...other.output];
            if (kind === 5 && tensor.externalData?.length) tensor.externalData[i % 3]!.value = String(value);
          }
          try {
            const graph = readDecoderGraph(model, source.config);
            using files = new TensorFiles(source.path);
            files.bytesOf(graph.head.qweight);
          } catch (error) {
            assert.ok(error instanceof ModelFileError, String((error as Error).stack));
          }
        },
      ),
      { numRuns: 300 },
    );
  });
});

describe("readOnnx()", () => {
  test("leaves large weights in the file, and finds them there", () => {
    for (const layout of layouts) {
      const { path } = tiny[layout]!;
      const [whole, lean] = [decodeModel(new Uint8Array(readFileSync(path))), readOnnx(path)];
      using files = new TensorFiles(path);
      let moved = 0;
      whole.graph.initializer.forEach((tensor, i) => {
        const { rawData, ...rest } = tensor;
        if ((rawData?.length ?? 0) < 1024) return assert.deepEqual(lean.graph.initializer[i], tensor);
        moved++;
        const source = files.bytesOf(lean.graph.initializer[i]!);
        const bytes = new Uint8Array(source.length);
        source.read(0, bytes);
        assert.deepEqual(bytes, new Uint8Array(rawData!), rest.name);
        assert.equal(lean.graph.initializer[i]!.rawData, undefined);
      });
      assert.equal(moved > 0, "insideBytes" in LAYOUTS[layout], layout);
      assert.deepEqual({ ...lean.graph, initializer: [] }, { ...whole.graph, initializer: [] });
    }
  });

  test("reads damaged files as far as they are ONNX, and refuses them as model files where not", () => {
    const bytes = readFileSync(tiny.web!.path);
    const path = join(root, "damaged.onnx");
    fc.assert(
      fc.property(
        fc.nat(bytes.length - 1),
        fc.uint8Array({ minLength: 1, maxLength: 12 }),
        fc.boolean(),
        (at, noise, cut) => {
          const damaged = new Uint8Array(bytes);
          damaged.set(noise.subarray(0, damaged.length - at), at);
          writeFileSync(path, cut ? damaged.subarray(0, at) : damaged);
          try {
            readOnnx(path);
          } catch (error) {
            assert.ok(error instanceof ModelFileError, String((error as Error).stack));
          }
        },
      ),
      { numRuns: 200 },
    );
    assert.throws(() => readOnnx(join(root, "none.onnx")), {
      name: "ModelFileError",
      message: /Cannot read the graph/,
    });
    writeFileSync(path, encodeModel({ ...readOnnx(tiny.genai!.path) }).subarray(0, 100));
    assert.throws(() => readOnnx(path), ModelFileError);
  });
});
