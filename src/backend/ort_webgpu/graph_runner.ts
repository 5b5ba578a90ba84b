import type * as ort from "onnxruntime-web/jspi";
import type { KvFormat } from "./gpu_kv.ts";
import type { KvBuffers, KvPool } from "./kv_pool.ts";
import { LOGITS_POSITIONS } from "../ort/pick_positions.ts";
import { SEQLENS_K, TOTAL_LENGTH } from "./gpu_graph.ts";
import { Usage } from "./gpu_usage.ts";
import { captured, UNCAPTURED } from "./graph_capture.ts";
import type { LoadedGraph } from "./loaded_graph.ts";
import type { OnnxRuntime } from "./onnxruntime.ts";
import { RecordedStep } from "./recorded_step.ts";

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
  /** Runs on these buffers are all alike: record one and replay it. */
  replay?: boolean;
  /** Commands that come before. It is the runner's from now on. @default none */
  encoder?: GPUCommandEncoder;
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

/** Runs a model's graph over GPU buffers. */
export class GraphRunner {
  readonly #parts: GraphRunnerParts;
  #beyond: Promise<LoadedGraph> | undefined;
  readonly #kvNames: readonly { past: string; present: string }[];
  /** int32 `[context + 1]`: 0, 1, 2, ... */
  readonly #numbers: GPUBuffer;
  /** int32 `[1]` each: the lengths of the run that is encoded next. */
  readonly #lastPosition: GPUBuffer;
  readonly #totalLength: GPUBuffer;
  readonly #recorded = new WeakMap<KvBuffers, RecordedStep>();

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
    const { device, format: { config } } = parts;
    const buffer = (size: number) =>
      device.createBuffer({ size, usage: Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST });
    [this.#lastPosition, this.#totalLength] = [buffer(16), buffer(16)];
    const numbers = Int32Array.from({ length: config.contextLength + 1 }, (_, i) => i);
    this.#numbers = buffer(numbers.byteLength);
    device.queue.writeBuffer(this.#numbers, 0, numbers);
  }

  /**
   * Runs the graph: its commands were given to the GPU, or are in the encoder that comes back.
   * @returns an encoder for what follows
   * @throws {OutOfMemoryError} when a sequence outgrows the window and the GPU has no room for what that takes
   */
  async run(run: GraphRun): Promise<GPUCommandEncoder> {
    const { kv, start, tokens, replay = false, encoder = this.#parts.device.createCommandEncoder() } = run;
    const { device, pool } = this.#parts;
    const total = start + tokens;
    const graph = await this.#graphFor(total);
    // Among the commands, so that each run finds its own.
    encoder.copyBufferToBuffer(this.#numbers, 4 * (total - 1), this.#lastPosition, 0, 4);
    encoder.copyBufferToBuffer(this.#numbers, 4 * total, this.#totalLength, 0, 4);
    const graphId = replay && graph.captures ? pool.graphId(kv) : undefined;
    const recorded = graphId === undefined ? undefined : this.#recorded.get(kv);
    if (recorded) {
      recorded.encode(encoder);
      return encoder;
    }
    device.queue.submit([encoder.finish()]);
    if (graphId === undefined) {
      await this.#runSession(graph, run, UNCAPTURED);
    } else {
      const step = await RecordedStep.of(device, () => this.#runSession(graph, run, captured(graphId)));
      if (step) this.#recorded.set(kv, step);
    }
    return device.createCommandEncoder();
  }

  async #runSession(graph: LoadedGraph, run: GraphRun, options: ort.InferenceSession.RunOptions): Promise<void> {
    const { kv, start, ids, tokens, positions, logits, hiddenStates, rotary } = run;
    const { Tensor, format: { config, half } } = this.#parts;
    const total = start + tokens;
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
    await graph.session.run(feeds, fetches, options);
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
