import { ModelFileError } from "../../errors.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { AttributeType, DataType, type OnnxModel, type OnnxNode, type OnnxTensor } from "../../model/onnx_proto.ts";
import type { TensorBytes, TensorFiles } from "../../model/tensor_bytes.ts";
import type { QuantizedMatrix, Table } from "./quantized_matrix.ts";

/**
 * A graph's weights by the places that onnxruntime-genai's builder gives them:
 * https://github.com/microsoft/onnxruntime-genai/blob/main/src/python/py/models/builders/base.py
 * Shapes are checked here; a mismatch is a {@linkcode ModelFileError} that names the node or tensor.
 */
export class GraphWeights {
  readonly #nodes: readonly OnnxNode[];
  readonly #tensors: ReadonlyMap<string, OnnxTensor>;
  /** By the place of the product, such as `/lm_head`: the node's own name depends on who quantized it. */
  readonly #products = new Map<string, OnnxNode>();
  readonly #files: TensorFiles;

  /** @param files where the graph's tensors are read from */
  constructor({ graph }: OnnxModel, files: TensorFiles) {
    this.#nodes = graph.node;
    this.#tensors = new Map(graph.initializer.map((tensor) => [tensor.name, tensor]));
    this.#files = files;
    for (const node of graph.node) {
      const { name = "" } = node;
      if (/\/MatMul[^/]*$/.test(name)) this.#products.set(name.slice(0, name.lastIndexOf("/")), node);
    }
  }

  /** An f32 tensor of so many elements. */
  vector(name: string, elements: number): TensorBytes {
    return this.#tensor(name, elements, DataType.FLOAT);
  }

  /** The product at `place` where it is one; `undefined` where the builder left its parts apart. */
  fused(place: string, n: number, k: number): QuantizedMatrix | undefined {
    return this.#products.has(place) ? this.matMul(place, n, k) : undefined;
  }

  /** The product at `place`, from `k` to `n`. */
  matMul(place: string, n: number, k: number): QuantizedMatrix {
    const node = this.#products.get(place);
    if (node?.opType !== "MatMulNBits") {
      throw new ModelFileError(
        `Cannot use the graph: node ${node?.name ?? place} is ${node?.opType ?? "missing"}, wanted MatMulNBits`,
      );
    }
    for (const [name, value] of Object.entries({ N: n, K: k, block_size: 32 })) {
      const found = integer(node, name);
      if (found === value) continue;
      throw new ModelFileError(`Cannot use node ${node.name}: ${name} is ${found}, wanted ${value}`);
    }
    return this.#matrix(node.input.slice(1), integer(node, "bits"), n, k);
  }

  /** The token embedding, and whether lm_head is the same bytes. */
  embedding({ vocabSize, hiddenSize }: ModelConfig): { embedding: QuantizedMatrix | Table; tied: boolean } {
    const node = this.#nodes.find(({ opType, input }) => /^Gather/.test(opType) && input[1] === "input_ids");
    const [weights = "", , scales] = node?.input ?? [];
    if (node?.opType === "GatherBlockQuantized") {
      const head = this.#tensors.get(this.#products.get("/lm_head")?.input[1] ?? "");
      const tied = sameBytes(head, this.#tensors.get(weights));
      return { embedding: this.#matrix([weights, scales], 8, vocabSize, hiddenSize), tied };
    }
    if (!node) throw new ModelFileError("Cannot use the graph: it has no Gather of input_ids, wanted an embedding");
    const half = this.#tensors.get(weights)?.dataType === DataType.FLOAT16;
    const values = this.#tensor(weights, vocabSize * hiddenSize, half ? DataType.FLOAT16 : DataType.FLOAT);
    return { embedding: { n: vocabSize, k: hiddenSize, values, half }, tied: false };
  }

  /** Tokens that attention looks back on, the query included as onnxruntime counts them; `undefined` for all. */
  window(): number | undefined {
    const node = this.#nodes.find(({ opType }) => opType === "GroupQueryAttention");
    const found = node?.attribute.find(({ name }) => name === "local_window_size")?.i ?? -1;
    return found > 0 ? found : undefined;
  }

  #matrix(inputs: readonly (string | undefined)[], bits: number, n: number, k: number): QuantizedMatrix {
    const [qweight = "", scales = "", zeros = ""] = inputs;
    if (bits !== 4 && bits !== 8) throw new ModelFileError(`Cannot use ${qweight}: ${bits} bits, wanted 4 or 8`);
    const packed = this.#tensors.get(zeros)?.dataType === DataType.UINT8;
    const zeroPoints = zeros === ""
      ? undefined
      : this.#tensor(zeros, packed ? n * Math.ceil(k / 64) : n * k / 32, packed ? DataType.UINT8 : DataType.FLOAT);
    if (zeroPoints && bits === 8) {
      throw new ModelFileError(`Cannot use ${zeros}: int8 weights have their middle at 128`);
    }
    return {
      n,
      k,
      bits,
      qweight: this.#tensor(qweight, n * k * bits / 8, DataType.UINT8),
      scales: this.#tensor(scales, n * k / 32, DataType.FLOAT),
      zeroPoints,
    };
  }

  #tensor(name: string, elements: number, dataType: number): TensorBytes {
    const found = this.#tensors.get(name);
    const size = found?.dims.reduce((product, dim) => product * dim, 1);
    if (found && size === elements && found.dataType === dataType) return this.#files.bytesOf(found);
    throw new ModelFileError(
      `Cannot use the graph: tensor ${name} ` +
        `${found ? `is [${found.dims.join(", ")}] of type ${found.dataType}` : "is missing"}, ` +
        `wanted ${elements} elements of type ${dataType}`,
    );
  }
}

function integer(node: OnnxNode, name: string): number {
  const found = node.attribute.find((item) => item.name === name && item.type === AttributeType.INT);
  if (found?.i === undefined) throw new ModelFileError(`Cannot use node ${node.name}: it has no attribute ${name}`);
  return found.i;
}

/** Whether two tensors are the same part of the same file: "tied" embeddings. */
function sameBytes(a: OnnxTensor | undefined, b: OnnxTensor | undefined): boolean {
  const place = (tensor: OnnxTensor | undefined) =>
    tensor?.externalData?.filter(({ key }) => key !== "length").map(({ key, value }) => `${key}=${value}`).sort()
      .join();
  return place(a) !== undefined && place(a) === place(b);
}
