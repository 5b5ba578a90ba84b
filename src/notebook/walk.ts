/**
 * The inside of a language model, step by step, after chapter 3 of "Hands-On Large Language Models".
 * Each function is one step, on real numbers of a real model; `main.ts` runs them all.
 * Read it beside the output of `bun run notebook`.
 */
import type { Engine } from "../engine/engine.ts";
import type { Generation } from "../engine/generation.ts";
import { textGenerationPipeline } from "../engine/pipeline.ts";
import { printModuleTree } from "../model/module_tree.ts";
import { topK } from "../sampling/softmax.ts";

/** Takes one line of output. */
export type Print = (line: string) => void;

const EMAIL = "Write an email apologizing to Sarah for the tragic gardening mishap. Explain how it happened.";
const LONG_EMAIL = EMAIL.replace("Write an email", "Write a very long email");

/** (a) What the model is made of: its modules with their shapes, from its own files. */
export function showArchitecture(engine: Engine, print: Print): void {
  print(printModuleTree(engine.model.path, engine.model.config));
}

/** (b) Text in, text out: 50 greedy tokens. */
export async function completeGreedily(engine: Engine, print: Print): Promise<string> {
  const generator = textGenerationPipeline(engine);
  const messages = [{ role: "user", content: EMAIL }];
  print(`prompt: ${EMAIL}`);
  const [output] = await generator(messages, { return_full_text: false, max_new_tokens: 50, do_sample: false });
  const text = output!.generated_text.at(-1)!.content;
  print(text);
  return text;
}

/** What {@linkcode forwardPass} saw. */
export interface ForwardPass {
  inputIds: number[];
  /** `[1, tokens, hidden_size]` */
  hiddenShape: number[];
  /** `[1, tokens, vocab_size]` */
  logitsShape: number[];
  /** The likeliest next tokens, best first. */
  top: { id: number; text: string; probability: number }[];
}

/** (c) One forward pass: ids -> hidden states -> lm_head -> logits -> the next token. */
export async function forwardPass(engine: Engine, print: Print): Promise<ForwardPass> {
  const prompt = "The Capital of France is";
  const { tokenizer, model: { config } } = engine;

  // Text becomes token ids; the model never sees letters.
  const inputIds = tokenizer.encode(prompt);
  print(`input_ids [1, ${inputIds.length}]: ${inputIds.join(" ")}`);
  print(`tokens: ${inputIds.map((id) => JSON.stringify(tokenizer.tokenText(id))).join(" ")}`);

  // The decoder turns each position into a vector; lm_head turns each vector into a score per vocabulary entry.
  const [row] = await engine.backend.forward([{ tokenIds: inputIds, logits: "all", hiddenStates: true }]);
  const hiddenShape = [1, row!.hiddenStates!.length / config.hiddenSize, config.hiddenSize];
  const logitsShape = [1, row!.logits.length / config.vocabSize, config.vocabSize];
  print(`last hidden state: [${hiddenShape.join(", ")}]`);
  print(`lm_head output (logits): [${logitsShape.join(", ")}]`);

  // Only the last position says what comes next; softmax makes its scores probabilities.
  const last = row!.logits.subarray(-config.vocabSize);
  const { ids, probabilities } = topK(last, 5);
  const top = Array.from(ids, (id, i) => ({ id, text: tokenizer.decode([id]), probability: probabilities[i]! }));
  for (const { id, text, probability } of top) {
    print(`  ${(probability * 100).toFixed(2).padStart(6)}%  ${String(id).padStart(6)}  ${JSON.stringify(text)}`);
  }
  print(`argmax at the last position: ${top[0]!.id} = ${JSON.stringify(top[0]!.text)}`);
  return { inputIds, hiddenShape, logitsShape, top };
}

/** What {@linkcode showAttention} saw of one layer. */
export interface AttentionShapes {
  layer: number;
  /** `[1, tokens, heads, head_dim]`, keys and values with the heads that they have. */
  q: number[];
  k: number[];
  v: number[];
  /** `[1, heads, tokens, tokens]` */
  weights: number[];
}

/** Shades of an attention weight, from nearly nothing to nearly all. */
const SHADES = " .:-=+*#%@";

/**
 * The inside of attention: queries, keys and values of the middle layer, and whom the last token looks at, head by head.
 * `undefined` where the backend does not show it.
 */
export async function showAttention(engine: Engine, print: Print): Promise<AttentionShapes | undefined> {
  const { backend, tokenizer, model: { config } } = engine;
  if (!backend.info.inspects) {
    print(`skipped: backend ${backend.info.name} gives logits and hidden states only; BACKEND=simd shows attention`);
    return undefined;
  }
  const { numHiddenLayers, numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = config;
  const layer = Math.floor(numHiddenLayers / 2);
  const tokenIds = tokenizer.encode("The Capital of France is");
  const tokens = tokenIds.length;
  const [row] = await backend.forward([{ tokenIds, logits: "none", inspect: [layer] }]);
  const { queries, keys, values, weights } = row!.layers![0]!;
  const shapes = {
    layer,
    q: [1, queries.length / (heads * headDim), heads, headDim],
    k: [1, keys.length / (kvHeads * headDim), kvHeads, headDim],
    v: [1, values.length / (kvHeads * headDim), kvHeads, headDim],
    weights: [1, heads, tokens, weights.length / (heads * tokens)],
  };
  print(`layer ${layer} of ${numHiddenLayers}: Q [${shapes.q.join(", ")}], K and V [${shapes.k.join(", ")}]`);
  print(`attention weights: [${shapes.weights.join(", ")}]; each token's sum to 1 over itself and those before it`);

  // One line a head: how much the last token takes of each.
  print(`the last token, ${JSON.stringify(tokenizer.tokenText(tokenIds.at(-1)!))}, looks at`);
  const texts = tokenIds.map((id) => JSON.stringify(tokenizer.tokenText(id)));
  const width = Math.max(7, ...texts.map((text) => text.length)) + 1;
  print(`${" ".repeat(8)}${texts.map((text) => text.padStart(width)).join("")}`);
  for (let head = 0; head < heads; head++) {
    const at = (head * tokens + tokens - 1) * tokens;
    const cells = Array.from(weights.subarray(at, at + tokens), (weight) => {
      const shade = SHADES[Math.min(SHADES.length - 1, Math.floor(weight * SHADES.length))]!;
      return `${shade} ${(100 * weight).toFixed(0).padStart(3)}%`.padStart(width);
    });
    print(`head ${String(head).padStart(2)} ${cells.join("")}`);
  }
  return shapes;
}

/** (d) The same prompt, greedy and by chance. */
export async function compareDecoding(engine: Engine, print: Print): Promise<Record<string, string>> {
  const ways = {
    "greedy": {},
    "greedy again": {},
    "temperature 0.8, seed 1": { doSample: true, temperature: 0.8, seed: 1 },
    "temperature 0.8, seed 2": { doSample: true, temperature: 0.8, seed: 2 },
    "top-p 0.9, seed 1": { doSample: true, topP: 0.9, seed: 1 },
  };
  const answers: Record<string, string> = {};
  for (const [name, sampling] of Object.entries(ways)) {
    const messages = [{ role: "user", content: "Write one sentence about the sea." }];
    const answer = await read(await engine.start({ prompt: { messages }, sampling, maxTokens: 40 }));
    print(`${name}: ${answer.text.replaceAll("\n", " ")}`);
    answers[name] = answer.text;
  }
  return answers;
}

/** Mean and standard deviation of several runs, in milliseconds. */
export interface Timing {
  meanMs: number;
  deviationMs: number;
}

/** Options of {@linkcode timeKvCache}. */
export interface TimeKvCacheOptions {
  /** Tokens of a run. @default 100 */
  tokens?: number;
  /** @default 3 */
  repeats?: number;
  /**
   * What runs without the cache would take together if every token took as long as the first, in milliseconds: where
   * that is more, they have fewer tokens. @default 60000
   */
  budgetMs?: number;
}

/** What {@linkcode timeKvCache} measured. */
export interface KvCacheTimings {
  /** Tokens of each run. */
  tokens: number;
  withCache: Timing;
  withoutCache: Timing;
  /** Every run gave the same text. */
  sameText: boolean;
}

/** Fewer show nothing. */
const LEAST_TOKENS = 10;

/** (e) What the KV cache is for: 100 tokens with it and without. */
export async function timeKvCache(
  engine: Engine,
  print: Print,
  options: TimeKvCacheOptions = {},
): Promise<KvCacheTimings> {
  const { tokens: wanted = 100, repeats = 3, budgetMs = 60_000 } = options;
  const messages = [{ role: "user", content: LONG_EMAIL }];
  print(`prompt: ${LONG_EMAIL}`);
  const texts = new Set<string>();
  const seconds = (ms: number) => (ms / 1000).toFixed(2);
  const answer = async (maxTokens: number, useCache: boolean) => {
    const startedAt = performance.now();
    const { text } = await read(await engine.start({ prompt: { messages }, maxTokens, useCache, ignoreEos: true }));
    return { text, ms: performance.now() - startedAt };
  };

  // Without the cache each token evaluates the prompt again, and all tokens before it.
  const { ms: tokenMs } = await answer(1, false);
  const tokens = Math.min(wanted, Math.max(LEAST_TOKENS, Math.floor(budgetMs / (repeats * tokenMs))));
  if (tokens < wanted) {
    print(`a token without the cache takes ${seconds(tokenMs)} s or more: runs of ${tokens} tokens, not of ${wanted}`);
  }
  const time = async (useCache: boolean): Promise<Timing> => {
    const runs: number[] = [];
    for (let run = 0; run < repeats; run++) {
      const { text, ms } = await answer(tokens, useCache);
      texts.add(text);
      runs.push(ms);
      print(`  use_cache ${useCache}, run ${run + 1} of ${repeats}: ${seconds(ms)} s`);
    }
    const meanMs = runs.reduce((sum, ms) => sum + ms, 0) / repeats;
    const deviationMs = Math.sqrt(runs.reduce((sum, ms) => sum + (ms - meanMs) ** 2, 0) / repeats);
    print(
      `use_cache ${useCache}: ${seconds(meanMs)} s ± ${seconds(deviationMs)} (${repeats} runs of ${tokens} tokens)`,
    );
    return { meanMs, deviationMs };
  };
  const withCache = await time(true);
  const withoutCache = await time(false);
  const sameText = texts.size === 1;
  print(`the cache makes it ${(withoutCache.meanMs / withCache.meanMs).toFixed(1)}x faster`);
  print(sameText ? "and the text is the same" : "but the texts differ: a near-tie fell the other way");
  return { tokens, withCache, withoutCache, sameText };
}

async function read(generation: Generation): Promise<{ text: string }> {
  let text = "";
  for await (const event of generation) text += event.text;
  return { text };
}
