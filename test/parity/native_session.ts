/** A model file as onnxruntime's native build runs it, whatever layout it has. */
import { InferenceSession, Tensor } from "onnxruntime-node";
import { float16ToNumber } from "../../src/model/float16.ts";
import type { ModelConfig } from "../../src/model/model_config.ts";

// onnxruntime-common 1.30 hands f16 over as Float16Array where there is one, of which onnxruntime-node sees no byte. It
// looks for the class once, when the first tensor is made.
const float16 = Object.getOwnPropertyDescriptor(globalThis, "Float16Array");
if (float16) {
  Reflect.deleteProperty(globalThis, "Float16Array");
  new Tensor("float16", new Uint16Array(0), [0]);
  Object.defineProperty(globalThis, "Float16Array", float16);
}

/** One sequence on onnxruntime-node, by its public API and on the unmodified file. Release when done. */
export class NativeSession {
  static async load(onnxPath: string, config: ModelConfig, threads = 1): Promise<NativeSession> {
    const options = { intraOpNumThreads: threads, logSeverityLevel: 3 } as const;
    return new NativeSession(await InferenceSession.create(onnxPath, options), config);
  }

  readonly #session: InferenceSession;
  readonly #names: string[];
  readonly #half: boolean;
  readonly #config: ModelConfig;
  #past: Tensor[] = [];
  #length = 0;

  private constructor(session: InferenceSession, config: ModelConfig) {
    this.#session = session;
    this.#config = config;
    this.#names = Array.from({ length: config.numHiddenLayers }, (_, i) => [`${i}.key`, `${i}.value`]).flat();
    const kv = session.inputMetadata.find(({ name }) => name === "past_key_values.0.key");
    this.#half = kv?.isTensor === true && kv.type === "float16";
    this.restart();
  }

  /** Forgets all tokens. */
  restart(): void {
    const dims = [1, this.#config.numKeyValueHeads, 0, this.#config.headDim];
    const empty = () => this.#half ? new Tensor("float16", new Uint16Array(0), dims) : new Tensor("float32", [], dims);
    this.#past = this.#names.map(empty);
    this.#length = 0;
  }

  /** Appends tokens. @returns logits of each, f32 `[tokens, vocab_size]` */
  async append(tokenIds: readonly number[]): Promise<Float32Array> {
    const start = this.#length;
    this.#length += tokenIds.length;
    const int64 = (values: ArrayLike<number>) =>
      new Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const positions = tokenIds.map((_, i) => start + i);
    const outputs = await this.#session.run({
      input_ids: int64(tokenIds),
      attention_mask: int64(new Uint8Array(this.#length).fill(1)),
      ...(this.#session.inputNames.includes("position_ids") && { position_ids: int64(positions) }),
      ...Object.fromEntries(this.#names.map((name, i) => [`past_key_values.${name}`, this.#past[i]!])),
    });
    this.#past = this.#names.map((name) => outputs[`present.${name}`]!);
    const { data, type } = outputs.logits!;
    return type === "float16" ? Float32Array.from(data as Uint16Array, float16ToNumber) : data as Float32Array;
  }

  async release(): Promise<void> {
    await this.#session.release();
  }
}
