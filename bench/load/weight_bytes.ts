import { findDecoderWeights } from "../../src/backend/simd/decoder_weights.ts";
import { loadKernels } from "../../src/backend/simd/kernels.ts";
import { packedBytes } from "../../src/backend/simd/load_weights.ts";
import { readDecoderGraph } from "../../src/model/decoder_graph.ts";
import type { ModelFolder } from "../../src/model/model_folder.ts";
import { onnxFile } from "../../src/model/onnx_file.ts";
import { readOnnx } from "../../src/model/read_onnx.ts";
import { TensorFiles } from "../../src/model/tensor_bytes.ts";

/** Bytes of weights that `simd` keeps, and of those what a token reads: one row of a table of embeddings. */
export async function weightBytes(
  { path, config }: Pick<ModelFolder, "path" | "config">,
): Promise<{ kept: number; read: number }> {
  const onnx = onnxFile(path);
  using files = new TensorFiles(onnx);
  const weights = findDecoderWeights(readDecoderGraph(readOnnx(onnx), config), files, config);
  const kept = packedBytes((await loadKernels())!, weights);
  const { embedding } = weights;
  return { kept, read: kept - ("values" in embedding ? 2 * embedding.n * embedding.k : 0) };
}
