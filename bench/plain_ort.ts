import { Worker } from "node:worker_threads";
import type { ModelFolder } from "../src/model/model_folder.ts";

/** A pass of the plain peer. */
export interface PlainPass {
  /** Inside the thread: what its user would wait for. */
  ms: number;
  /** f32 `[vocab_size]` of the last position. */
  logits: Float32Array;
}

/** onnxruntime-web as it comes, on the model as it is: int4 weights, KV in and out with every call. */
export class PlainOrt implements AsyncDisposable {
  readonly #worker: Worker;

  private constructor(worker: Worker) {
    this.#worker = worker;
  }

  static async start(model: ModelFolder, threads: number): Promise<PlainOrt> {
    const workerData = { folder: model.path, config: model.config, threads };
    const plain = new PlainOrt(new Worker(new URL("./plain_ort_worker.ts", import.meta.url), { workerData }));
    await plain.#reply();
    return plain;
  }

  /** Makes the cache hold `tokens` tokens. */
  async fill(tokens: number): Promise<void> {
    this.#worker.postMessage({ fill: tokens });
    await this.#reply();
  }

  /** Evaluates `ids` on the cache; `keep` appends them to it. */
  async forward(ids: readonly number[], keep = false): Promise<PlainPass> {
    this.#worker.postMessage({ ids, keep });
    return await this.#reply();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#worker.terminate();
  }

  #reply(): Promise<PlainPass> {
    return new Promise((resolve, reject) => {
      this.#worker.once("message", (reply: PlainPass) => {
        this.#worker.off("error", reject);
        resolve(reply);
      });
      this.#worker.once("error", reject);
    });
  }
}
