import type * as ort from "onnxruntime-web/jspi";
import { ModelFileError, OutOfMemoryError } from "../../errors.ts";
import { readDecoderGraph } from "../../model/decoder_graph.ts";
import type { ModelConfig } from "../../model/model_config.ts";
import { readOnnx } from "../../model/read_onnx.ts";
import { TensorFiles } from "../../model/tensor_bytes.ts";
import { rewriteForGpu, type RotaryTables } from "./gpu_graph.ts";
import { Usage } from "./gpu_usage.ts";
import { withCapture } from "./graph_capture.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";
import { WeightBlob } from "./weight_source.ts";

/** A model's graph with its weights on a GPU. */
export interface LoadedGraph {
  session: ort.InferenceSession;
  /** Name of the last hidden state, an output. */
  hiddenStates: string;
  /** Tokens that attention looks back on, the query included; `undefined` for all that the context has. */
  window: number | undefined;
  rotary: LoadedRotary;
  /** Whether runs can be captured. */
  captures: boolean;
}

/** Rotary tables on the GPU, `[positions, rotary_dim / 2]` each; they live as long as the device. */
export interface LoadedRotary {
  cos: { name: string; buffer: GPUBuffer };
  sin: { name: string; buffer: GPUBuffer };
  dims: number[];
}

/** Options of {@linkcode loadGraph}. */
export interface LoadGraphOptions {
  ort: OnnxRuntime;
  device: GPUDevice;
  /** The `.onnx` file; its external data lies beside it. */
  onnxPath: string;
  config: ModelConfig;
  half: boolean;
  activations: "f32" | "int8";
}

/**
 * Reads a model into the GPU's memory. Nothing is compiled yet: shaders are by the first passes.
 * @throws {ModelFileError} before a weight is read, when the graph is no decoder that we know; when the model's files are
 *   damaged, or onnxruntime refuses the graph
 * @throws {OutOfMemoryError} when the weights do not fit the GPU
 */
export async function loadGraph(
  { ort, device, onnxPath, config, half, activations }: LoadGraphOptions,
  captures: boolean,
): Promise<LoadedGraph> {
  const model = readOnnx(onnxPath);
  const decoder = readDecoderGraph(model, config);
  using files = new TensorFiles(onnxPath);
  const { graph, weights, hiddenStates, rotary } = rewriteForGpu(model, decoder, files, { half, activations });
  const window = decoder.window !== undefined && decoder.window < config.contextLength ? decoder.window : undefined;
  const options: ort.InferenceSession.SessionOptions = {
    executionProviders: [{ name: "webgpu", device }],
    preferredOutputLocation: "gpu-buffer",
    logSeverityLevel: 3,
    externalData: [...weights].map(([path, source]) => ({ path, data: new WeightBlob(source) })),
  };
  try {
    const session = await ort.InferenceSession.create(graph, captures ? withCapture(options) : options);
    return { session, hiddenStates, window, rotary: uploadRotary(device, rotary), captures };
  } catch (cause) {
    const message = (cause as Error).message ?? String(cause);
    if (/memory|alloc/i.test(message)) {
      throw new OutOfMemoryError(`Cannot load the model: the GPU has no room, ${message}`, { cause });
    }
    throw new ModelFileError(`Cannot load the graph: onnxruntime says ${message}`, { cause });
  }
}

function uploadRotary(device: GPUDevice, { cos, sin, dims }: RotaryTables): LoadedRotary {
  const upload = ({ name, bytes }: RotaryTables["cos"]) => {
    const contents = new Uint8Array(bytes.length);
    bytes.read(0, contents);
    const buffer = device.createBuffer({
      size: contents.length,
      usage: Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST,
    });
    device.queue.writeBuffer(buffer, 0, contents);
    return { name, buffer };
  };
  return { cos: upload(cos), sin: upload(sin), dims };
}
