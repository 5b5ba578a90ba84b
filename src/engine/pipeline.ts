import type { SamplingParams } from "../sampling/sampling_params.ts";
import type { ChatMessage } from "../tokenizer/chat_template.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { createEngine, type CreateEngineOptions } from "./create_engine.ts";
import type { Engine } from "./engine.ts";
import type { GenerateRequest } from "./generate_request.ts";
import type { Streamer } from "./text_streamer.ts";

/** Generation arguments, named as in transformers.js's `GenerationConfig`. */
export interface TextGenerationOptions {
  /** @default 256, as in transformers.js's text-generation pipeline */
  max_new_tokens?: number;
  /** Draw tokens by chance instead of taking the likeliest. @default false */
  do_sample?: boolean;
  /** @default 1 */
  temperature?: number;
  /** Choose among so many likeliest tokens; 0 for all. @default 50, as in transformers.js */
  top_k?: number;
  /** @default 1 */
  top_p?: number;
  min_p?: number;
  /** @default 1 */
  repetition_penalty?: number;
  /** Makes sampling repeatable; transformers.js has no such argument. */
  seed?: number;
  /** Strings that end the answer; they are not part of it. transformers.js has stopping criteria for this. */
  stop_strings?: string | string[];
  /** Put the prompt before a text answer. Chats always come back whole. @default true */
  return_full_text?: boolean;
  /** `false` recomputes all positions for each token. @default true */
  use_cache?: boolean;
  /** Takes tokens as they come. */
  streamer?: Streamer;
  /** Cancels between tokens. */
  signal?: AbortSignal;
}

/** One answer: the text, or the conversation with the answer as its last message. */
export interface TextGenerationOutput<T extends string | ChatMessage[] = string> {
  generated_text: T;
}

/** What {@linkcode pipeline} gives: a function over prompts or chats, with its engine beside it. */
export interface TextGenerationPipeline {
  (text: string, options?: TextGenerationOptions): Promise<[TextGenerationOutput]>;
  (chat: ChatMessage[], options?: TextGenerationOptions): Promise<[TextGenerationOutput<ChatMessage[]>]>;
  (texts: string[], options?: TextGenerationOptions): Promise<[TextGenerationOutput][]>;
  (chats: ChatMessage[][], options?: TextGenerationOptions): Promise<[TextGenerationOutput<ChatMessage[]>][]>;
  readonly engine: Engine;
  readonly tokenizer: Tokenizer;
  /** Ends the engine. */
  dispose(): Promise<void>;
}

type Input = string | ChatMessage[];

/**
 * transformers.js's entry point, on Hearth's engine:
 *
 * ```ts
 * import { pipeline } from "hearth"; // was "@huggingface/transformers"
 * const generator = await pipeline("text-generation");
 * const [{ generated_text }] = await generator("The capital of France is", { max_new_tokens: 5 });
 * await generator.dispose();
 * ```
 *
 * A text prompt may spell control tokens, as it may there. For text of strangers use
 * {@linkcode Engine.generate} with messages, where they stay text.
 *
 * @param model a folder under `models/`, a path, or the `owner/name` of one that was pulled; the bundled one when absent
 * @throws what {@linkcode createEngine} throws
 */
export async function pipeline(
  task: "text-generation",
  model?: string | null,
  options: CreateEngineOptions = {},
): Promise<TextGenerationPipeline> {
  if (task !== "text-generation") {
    throw new TypeError(`Cannot make a pipeline for "${task}": wanted "text-generation"`);
  }
  const engine = await createEngine({ ...options, model: model ?? options.model });
  return textGenerationPipeline(engine);
}

/** A pipeline over an engine that is already there; `dispose` ends that engine. */
export function textGenerationPipeline(engine: Engine): TextGenerationPipeline {
  const call = async (input: Input | Input[], options: TextGenerationOptions = {}) => {
    const batch = isBatch(input);
    const outputs = [];
    for (const one of batch ? input : [input]) outputs.push([{ generated_text: await answer(engine, one, options) }]);
    return batch ? outputs : outputs[0]!;
  };
  // The overloads tie each kind of input to its output; one implementation serves them all.
  const generator = call as unknown as TextGenerationPipeline;
  return Object.assign(generator, {
    engine,
    tokenizer: engine.tokenizer,
    dispose: () => engine[Symbol.asyncDispose](),
  });
}

const isBatch = (input: Input | Input[]): input is Input[] =>
  Array.isArray(input) && input.every((one) => typeof one === "string" || Array.isArray(one));

async function answer(engine: Engine, input: Input, options: TextGenerationOptions): Promise<Input> {
  const { streamer } = options;
  const isText = typeof input === "string";
  const ids = isText
    ? engine.tokenizer.encode(input, { specialTokens: "parse", addBos: true })
    : await engine.chatTemplate.encode(input);
  streamer?.put([ids.map(BigInt)]);
  let text = "";
  for await (const event of engine.generate(toRequest(ids, options), { signal: options.signal })) {
    text += event.text;
    if (event.type === "token") streamer?.put([[BigInt(event.id)]]);
  }
  streamer?.end();
  if (!isText) return [...input, { role: "assistant", content: text }];
  return (options.return_full_text ?? true) ? engine.tokenizer.decode(ids) + text : text;
}

function toRequest(ids: number[], options: TextGenerationOptions): GenerateRequest {
  const sampling: Partial<SamplingParams> = {
    doSample: options.do_sample ?? false,
    temperature: options.temperature ?? 1,
    topK: options.top_k ?? 50,
    topP: options.top_p ?? 1,
    minP: options.min_p ?? 0,
    repetitionPenalty: options.repetition_penalty ?? 1,
    seed: options.seed,
  };
  return {
    prompt: { ids },
    maxTokens: options.max_new_tokens ?? 256,
    sampling,
    stop: [options.stop_strings ?? []].flat(),
    useCache: options.use_cache ?? true,
  };
}
