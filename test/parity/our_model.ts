/** The bundled model as Hearth runs it, with its logits at every position of a text. */
import { availableCpus } from "../../src/backend/host_resources.ts";
import type { Backend } from "../../src/backend/backend.ts";
import { createOrtWasmBackend } from "../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { type ModelFolder, readModelFolder } from "../../src/model/model_folder.ts";
import { ChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import type { Passage } from "./texts.ts";

/** A prefill chunk. */
const CHUNK = 128;
/** Tokens at the end of a text that go in one by one, as those of an answer do. */
const STEPS = 8;

/** Ends with its backend. */
export class OurModel implements AsyncDisposable {
  static async load(): Promise<OurModel> {
    const folder = await readModelFolder(await resolveModelPath());
    const backend = await createOrtWasmBackend({
      modelDir: folder.path,
      config: folder.config,
      threads: availableCpus(),
      memoryBudgetBytes: 4 * 2 ** 30,
      weights: "f32",
    });
    return new OurModel(folder, backend);
  }

  readonly tokenizer: Tokenizer;
  readonly template: ChatTemplate;

  private constructor(readonly folder: ModelFolder, readonly backend: Backend) {
    this.tokenizer = Tokenizer.fromJson(folder.tokenizerJson, folder.tokenizerConfig);
    this.template = ChatTemplate.fromConfig(folder.tokenizerConfig, this.tokenizer);
  }

  get vocabSize(): number {
    return this.folder.config.vocabSize;
  }

  async encode(passage: Passage): Promise<number[]> {
    return "text" in passage
      ? this.tokenizer.encode(passage.text, { addBos: true })
      : await this.template.encode(passage.messages, { addGenerationPrompt: false });
  }

  /** A token as it is shown to people: its text and id. */
  token(id: number): string {
    return `${JSON.stringify(this.tokenizer.tokenText(id))} (${id})`;
  }

  /** Logits at all positions, chunk by chunk: f32 `[chunk, vocab_size]`. */
  async *logits(chunks: readonly (readonly number[])[]): AsyncGenerator<Float32Array> {
    using cache = this.backend.createKvCache();
    for (const tokenIds of chunks) {
      const [result] = await this.backend.forward([{ cache, tokenIds, logits: "all" }]);
      yield result!.logits;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.backend[Symbol.asyncDispose]();
  }
}

/** A text in the pieces that a conversation would bring it in: prefill chunks, then single tokens. */
export function chunksOf(ids: readonly number[]): number[][] {
  const chunks: number[][] = [];
  const steps = Math.max(0, ids.length - STEPS);
  for (let at = 0; at < steps; at += CHUNK) chunks.push(ids.slice(at, Math.min(at + CHUNK, steps)));
  return [...chunks, ...ids.slice(steps).map((id) => [id])];
}

/** The rows of `[positions, vocabSize]`. */
export function rowsOf(logits: Float32Array, vocabSize: number): Float32Array[] {
  return Array.from(
    { length: logits.length / vocabSize },
    (_, i) => logits.subarray(i * vocabSize, (i + 1) * vocabSize),
  );
}
