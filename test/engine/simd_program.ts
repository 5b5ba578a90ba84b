import assert from "node:assert/strict";
import { isDeepStrictEqual } from "node:util";
import type { TopLogits } from "../../src/backend/backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import type { KvType } from "../../src/backend/simd/wasm_engine.ts";
import { ThreadBackend } from "../../src/backend/thread_backend.ts";
import type { KvCache } from "../../src/kv/kv_cache.ts";
import { OutOfMemoryError } from "../../src/errors.ts";
import type { ModelFolder } from "../../src/model/model_folder.ts";
import type { SampledToken } from "../../src/sampling/sampler.ts";
import { crashThread } from "../backend/crash_thread.ts";
import { PASS_FAILED, type ProgramHost } from "./session_program.ts";

/** Logits that are compared at each position: all of them, if the vocabulary is small. */
const MOST_LOGITS = 256;

/**
 * Programs on the real engine. A second one, which has no cache, says what each answer should be: the tokens, and the
 * bits of the logits that they were chosen from.
 */
export class SimdHost implements ProgramHost, AsyncDisposable {
  readonly vocabSize: number;
  readonly publicIds: readonly number[];
  /** Positions whose logits were compared. */
  compared = 0;
  crashes = 0;
  /** From then on `crash` does nothing: starting a thread takes longer than several programs. */
  mostCrashes = Infinity;
  readonly #oracle: ThreadBackend;
  readonly #top: number;
  /**
   * What the engine was given to choose from, by what it then said of its choice. A text that repeats itself has nearly
   * the same logits again and again, and may choose from several with one logarithm.
   */
  readonly #given = new Map<string, TopLogits[]>();
  /** Every cache of the program, forks and imports too. */
  readonly #caches: KvCache[] = [];
  #failNext = false;
  #refuseNext = 0;
  #crash: Promise<void> | undefined;

  static async start(model: ModelFolder, kv: KvType): Promise<SimdHost> {
    const options = { modelDir: model.path, config: model.config, kv };
    const backends = [createSimdBackend({ ...options, threads: 2 }), createSimdBackend(options)];
    const [backend, oracle] = await Promise.all(backends) as ThreadBackend[];
    return new SimdHost(backend!, oracle!);
  }

  private constructor(readonly backend: ThreadBackend, oracle: ThreadBackend) {
    this.#oracle = oracle;
    this.vocabSize = backend.config.vocabSize;
    this.publicIds = Array.from({ length: 20 }, (_, i) => (i * 7) % this.vocabSize);
    this.#top = Math.min(this.vocabSize, MOST_LOGITS);
    const { forward, createKvCache } = backend;
    backend.createKvCache = () => {
      const cache = createKvCache.call(backend);
      this.#caches.push(cache);
      return cache;
    };
    backend.forward = async (rows, options) => {
      // A crash has no cache, and is not to be refused.
      if (this.#refuseNext > 0 && rows.every(({ cache }) => cache)) {
        this.#refuseNext--;
        throw new OutOfMemoryError("Cannot run a pass: there is no memory");
      }
      // Greedy turns ask for the best logit; what else there is must be right as well.
      const results = await forward.call(backend, rows.map((row) => ({ ...row, top: this.#top })), options);
      const tops = results.flatMap(({ top, followed = [] }) => [...top!, ...followed.map(({ top }) => top)]);
      for (const logits of tops) {
        const known = this.#given.get(key(chosen(logits))) ?? [];
        this.#given.set(key(chosen(logits)), [...known, logits]);
      }
      if (!this.#failNext) return results;
      this.#failNext = false;
      throw new Error(PASS_FAILED);
    };
  }

  async checkAnswer(prompt: readonly number[], answer: readonly SampledToken[]): Promise<void> {
    if (answer.length === 0) return;
    const tokenIds = [...prompt, ...answer.slice(0, -1).map(({ id }) => id)];
    const [{ top } = { top: undefined }] = await this.#oracle.forward([{ tokenIds, logits: "all", top: this.#top }]);
    for (const [i, token] of answer.entries()) {
      const want = top![prompt.length - 1 + i]!;
      assert.equal(key(token), key(chosen(want)), `token ${i} and its logarithm`);
      const given = this.#given.get(key(token)) ?? [];
      const same = given.find((logits) => isDeepStrictEqual(logits, want));
      assert.deepEqual(same ?? given.at(-1), want, `logits of token ${i}`);
      this.compared++;
    }
  }

  /** Bytes that caches hold, each counted in full. */
  get heldBytes(): number {
    return this.#caches.reduce((bytes, cache) => bytes + cache.bytes, 0);
  }

  failNext(): void {
    this.#failNext = true;
  }

  fill(times: number): void {
    this.#refuseNext = times;
  }

  /** Two at once are one. */
  async crash(): Promise<void> {
    if (this.crashes < this.mostCrashes) await this.lose();
  }

  /** `crash` in any case. */
  lose(): Promise<void> {
    return this.#crash ??= this.#crashOnce().finally(() => this.#crash = undefined);
  }

  async #crashOnce(): Promise<void> {
    // A thread that dies before its first pass may not be replaced at once.
    await this.backend.forward([{ tokenIds: [0] }]).catch(() => {});
    await crashThread(this.backend);
    this.crashes++;
  }

  /** Forgets the program before. */
  reset(): void {
    this.#given.clear();
    this.#caches.length = 0;
    this.#failNext = false;
    this.#refuseNext = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all([this.backend, this.#oracle].map((backend) => backend[Symbol.asyncDispose]()));
  }
}

/** What greedy decoding makes of logits. */
const chosen = ({ ids, logits, logSumExp }: TopLogits): SampledToken => ({
  id: ids[0]!,
  logprob: logits[0]! - logSumExp,
});

const key = ({ id, logprob }: SampledToken) => `${id} ${logprob}`;
