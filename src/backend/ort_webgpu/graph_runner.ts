import type * as ort from "onnxruntime-web/jspi";
import type { KvFormat } from "./gpu_kv.ts";
import type { KvBuffers, KvPool } from "./kv_pool.ts";
import { LOGITS_POSITIONS } from "../ort/pick_positions.ts";
import { SEQLENS_K, TOTAL_LENGTH } from "./gpu_graph.ts";
import { Usage } from "./gpu_usage.ts";
import { captured, UNCAPTURED } from "./graph_capture.ts";
import type { LoadedGraph } from "./loaded_graph.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";

/** One run of the graph; all buffers are the caller's. */
export interface GraphRun {
  kv: KvBuffers;
  /** Tokens that the KV holds before. */
  start: number;
  /** int64 `[tokens]`. */
  ids: GPUBuffer;
  tokens: number;
  /** int64 `[count]`: where logits are wanted. */
  positions: { buffer: GPUBuffer; count: number };
  /** Gets f32 `[count, vocab_size]`. */
  logits: GPUBuffer;
  /** Gets `[tokens, hidden_size]`, as KV in f16 or f32. */
  hiddenStates?: GPUBuffer;
  /** In place of the model's own. */
  rotary?: { cos: GPUBuffer; sin: GPUBuffer };
  /** Runs on these buffers are all alike: record the first and replay it. */
  replay?: boolean;
}

/** Parts of a {@linkcode GraphRunner}. */
export interface GraphRunnerParts {
  Tensor: OnnxRuntime["Tensor"];
  device: GPUDevice;
  format: KvFormat;
  pool: KvPool;
  graph: LoadedGraph;
  /** Loads the same model without capture. */
  loadBeyond(): Promise<LoadedGraph>;
}

/** Runs a model's graph over GPU buffers. A run has been given to the GPU when it resolves, no more. */
export class GraphRunner {
  readonly #parts: GraphRunnerParts;
  #beyond: Promise<LoadedGraph> | undefined;
  readonly #kvNames: readonly { past: string; present: string }[];
  /** int32 `[1]` each: the lengths of the run that is encoded next. */
  readonly #lastPosition: GPUBuffer;
  readonly #totalLength: GPUBuffer;

  constructor(parts: GraphRunnerParts) {
    this.#parts = parts;
    this.#kvNames = Array.from(
      { length: parts.format.config.numHiddenLayers },
      (_, layer) =>
        ["key", "value"].map((kind) => ({
          past: `past_key_values.${layer}.${kind}`,
          present: `present.${layer}.${kind}`,
        })),
    ).flat();
    const length = () =>
      parts.device.createBuffer({ size: 16, usage: Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST });
    [this.#lastPosition, this.#totalLength] = [length(), length()];
  }

  /** @throws {OutOfMemoryError} when a sequence outgrows the window and the GPU has no room for what that takes */
  async run(run: GraphRun): Promise<void> {
    const { kv, start, ids, tokens, positions, logits, hiddenStates, rotary, replay = false } = run;
    const { Tensor, device, format: { config, half }, pool } = this.#parts;
    const total = start + tokens;
    const graph = await this.#graphFor(total);
    // In the queue, so that each run finds its own.
    device.queue.writeBuffer(this.#lastPosition, 0, new Int32Array([total - 1]));
    device.queue.writeBuffer(this.#totalLength, 0, new Int32Array([total]));
    const on = (buffer: GPUBuffer, dataType: "int32" | "int64" | "float32" | "float16", dims: number[]) =>
      Tensor.fromGpuBuffer(buffer, { dataType, dims });
    const floats = half ? "float16" : "float32";
    const feeds: Record<string, ort.Tensor> = {
      input_ids: on(ids, "int64", [1, tokens]),
      [SEQLENS_K]: on(this.#lastPosition, "int32", [1]),
      // Without capture the operator reads it on the CPU.
      [TOTAL_LENGTH]: graph.captures
        ? on(this.#totalLength, "int32", [1])
        : new Tensor("int32", new Int32Array([total]), [1]),
      [LOGITS_POSITIONS]: on(positions.buffer, "int64", [positions.count]),
    };
    const fetches: Record<string, ort.Tensor> = {
      logits: on(logits, "float32", [1, positions.count, config.vocabSize]),
    };
    if (hiddenStates) fetches[graph.hiddenStates] = on(hiddenStates, floats, [1, tokens, config.hiddenSize]);
    const { cos, sin, dims } = graph.rotary;
    feeds[cos.name] = on(rotary?.cos ?? cos.buffer, floats, dims);
    feeds[sin.name] = on(rotary?.sin ?? sin.buffer, floats, dims);
    this.#kvNames.forEach(({ past, present }, i) => feeds[past] = fetches[present] = kv.tensors[i]!);
    const graphId = replay && graph.captures ? pool.graphId(kv) : undefined;
    await graph.session.run(feeds, fetches, graphId === undefined ? UNCAPTURED : captured(graphId));
  }

  async close(): Promise<void> {
    await this.#parts.graph.session.release();
    await (await this.#beyond?.catch(() => undefined))?.session.release();
  }

  /**
   * Where runs can be captured, attention of onnxruntime-web 1.30.0 does not know on the CPU how many tokens there are,
   * and leaves no token out that is beyond the window. So a sequence that outgrows the window goes on in a second session
   * that cannot capture, with weights of its own, loaded when the first one does.
   */
  async #graphFor(tokens: number): Promise<LoadedGraph> {
    const { graph, loadBeyond } = this.#parts;
    if (!graph.captures || graph.window === undefined || tokens <= graph.window) return graph;
    this.#beyond ??= loadBeyond();
    try {
      return await this.#beyond;
    } catch (error) {
      this.#beyond = undefined;
      throw error;
    }
  }
}
