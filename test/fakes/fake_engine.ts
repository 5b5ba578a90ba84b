import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import type { GenerateEvent } from "../../src/engine/generate_request.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { type ModelHashes, readModelFolder } from "../../src/model/model_folder.ts";
import { FakeBackend, type FakeBackendOptions } from "./fake_backend.ts";

/** The model that the fake engine is cut from. */
export const bundled = await readModelFolder(await resolveModelPath());
const tokenizerJson = firstTokens(bundled.tokenizerJson as TokenizerJson, 2000);

interface TokenizerJson {
  model: { vocab: Record<string, number>; merges: (string | [string, string])[] };
}

/** The tokenizer cut down to its first ids, which were merged first: the same rules, and loaded in a moment. */
function firstTokens(json: TokenizerJson, size: number): TokenizerJson {
  const vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([, id]) => id < size));
  const merges = json.model.merges.filter((merge) =>
    (typeof merge === "string" ? merge.replace(" ", "") : merge.join("")) in vocab
  );
  return { ...json, model: { ...json.model, vocab, merges } };
}

/** Options of {@linkcode fakeEngine}. */
export interface FakeEngineOptions extends Partial<EngineOptions>, Partial<FakeBackendOptions> {
  contextLength?: number;
  hashes?: ModelHashes;
  /** `null` for none. @default the bundled model's */
  chatTemplate?: string | null;
  /** Arithmetic of the backend. @default "fake" */
  variant?: string;
}

/** The bundled model's tokenizer, template and configuration cut down, over a backend without weights. */
export function fakeEngine(options: FakeEngineOptions = {}): { engine: Engine; backend: FakeBackend } {
  const backend = new FakeBackend({ vocabSize: 2000, ...options });
  const config = {
    ...bundled.config,
    vocabSize: backend.options.vocabSize,
    contextLength: options.contextLength ?? bundled.config.contextLength,
  };
  if (options.variant !== undefined) backend.info.variant = options.variant;
  const { chatTemplate } = options;
  const tokenizerConfig = {
    ...bundled.tokenizerConfig as object,
    ...(chatTemplate !== undefined && { chat_template: chatTemplate }),
  };
  const model = { ...bundled, tokenizerJson, tokenizerConfig, config, hashes: options.hashes ?? bundled.hashes };
  const engine = new Engine(model, backend, { kvBudgetBytes: 2 ** 30, ...options });
  return { engine, backend };
}

/** What a whole answer came to. */
export interface Collected {
  ids: number[];
  text: string;
  end: Extract<GenerateEvent, { type: "end" }>;
}

/** Reads an answer to its end. */
export async function collect(events: AsyncIterable<GenerateEvent>): Promise<Collected> {
  const ids: number[] = [];
  let text = "";
  for await (const event of events) {
    text += event.text;
    if (event.type === "token") ids.push(event.id);
    else if (event.type === "end") return { ids, text, end: event };
  }
  throw new Error("the stream ended without an end event");
}
