import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { basename, join, readText } from "../host/files.ts";
import { type ModelConfig, parseModelConfig } from "./model_config.ts";
import { hashModel, hashText } from "./model_hash.ts";
import type { FloatType } from "./onnx_file.ts";
import { weightFiles } from "./weight_files.ts";

/** A model folder in the Hugging Face layout, its small files read. The weights stay on disk. */
export interface ModelFolder {
  /** Absolute path; in a page a URL. */
  path: string;
  /** What the API calls the model: the folder's name, or `owner/name` of one from a hub. */
  id: string;
  config: ModelConfig;
  /** Parsed `generation_config.json`, its end tokens from `genai_config.json` where it has none; `{}` without both. */
  generationConfig: Record<string, unknown>;
  /** Parsed `tokenizer.json` and `tokenizer_config.json`. */
  tokenizerJson: unknown;
  tokenizerConfig: unknown;
  hashes: ModelHashes;
}

/** What makes stored ids and KV belong to a model. SHA-256, in hex. */
export interface ModelHashes {
  /**
   * Of `config.json`, and of each of `weightFiles` its name, size, first and last 64 KiB. They are those of the graph that
   * a CPU takes: another one beside it, that was fetched for a GPU say, makes no other model.
   */
  model: string;
  /** Of `tokenizer.json`. */
  tokenizer: string;
  /** Of `tokenizer_config.json`, which has the chat template. */
  template: string;
}

/**
 * Tells the weights of graphs in a model folder apart, as its hash tells models apart: SHA-256, in hex.
 * @param floats which graph, as for `onnxFile`
 */
export async function hashWeights(path: string, floats: FloatType): Promise<string> {
  const { json } = await readJson(path, "genai_config.json", {});
  return await hashModel(path, "", await weightFiles(path, json, floats));
}

/** Names a model, and what makes stored ids belong to it. */
export const modelIdentity = ({ id, hashes }: ModelFolder): ModelHashes & { id: string } => ({ id, ...hashes });

/**
 * Reads the configuration and tokenizer files of a model folder.
 * @param id what to call it. @default the folder's name
 * @throws {ModelFileError} naming the file that is missing, unreadable or wrong
 */
export async function readModelFolder(path: string, id: string = basename(path)): Promise<ModelFolder> {
  const [config, generationConfig, genaiConfig, tokenizerJson, tokenizerConfig] = await Promise.all([
    readJson(path, "config.json"),
    readJson(path, "generation_config.json", {}),
    readJson(path, "genai_config.json", {}),
    readJson(path, "tokenizer.json"),
    readJson(path, "tokenizer_config.json"),
  ]);
  return {
    path,
    id,
    config: parseModelConfig(config.json),
    generationConfig: { ...genaiEndTokens(genaiConfig.json), ...generationConfig.json as Record<string, unknown> },
    tokenizerJson: tokenizerJson.json,
    tokenizerConfig: tokenizerConfig.json,
    hashes: {
      model: await hashModel(path, config.text, await weightFiles(path, genaiConfig.json)),
      tokenizer: await hashText(tokenizerJson.text),
      template: await hashText(tokenizerConfig.text),
    },
  };
}

async function readJson(
  folder: string,
  name: string,
  whenMissing?: unknown,
): Promise<{ json: unknown; text: string }> {
  let text: string | undefined;
  try {
    text = await readText(join(folder, name));
  } catch (cause) {
    throw new ModelFileError(`Cannot read ${name} of model folder ${folder}: ${cause}`, { cause });
  }
  if (text === undefined) {
    if (whenMissing !== undefined) return { json: whenMissing, text: "" };
    throw new ModelFileError(`Cannot read ${name} of model folder ${folder}: no such file`);
  }
  try {
    return { json: JSON.parse(text), text };
  } catch (cause) {
    throw new ModelFileError(`Cannot read ${join(folder, name)}: ${(cause as Error).message}`, { cause });
  }
}

/** onnxruntime-genai's folders need no `generation_config.json`: their own file lists what ends an answer. */
function genaiEndTokens(json: unknown): Record<string, unknown> {
  const parsed = z.object({ model: z.object({ eos_token_id: z.unknown() }) }).safeParse(json);
  return parsed.success ? parsed.data.model : {};
}

/** End tokens of `generation_config.json`, which may be one id or several. */
export function stopTokenIds(folder: ModelFolder, eosTokenId: number | undefined): ReadonlySet<number> {
  const declared = folder.generationConfig.eos_token_id;
  const ids = Array.isArray(declared) ? declared : [declared];
  const valid = ids.filter((id): id is number => Number.isInteger(id) && id >= 0 && id < folder.config.vocabSize);
  return new Set(valid.length > 0 || eosTokenId === undefined ? valid : [eosTokenId]);
}
