import { genaiConfig } from "./configs.ts";
import { buildDecoderGraph } from "./decoder_graph.ts";
import { ExternalDataWriter, transformersJsDataName } from "./external_data.ts";
import type { FileStore } from "./file_store.ts";
import { writeGguf } from "./gguf_writer.ts";
import { GENAI_STYLE } from "./graph_style.ts";
import { encodeJson } from "./model_files.ts";
import { OnnxBuilder } from "./onnx_builder.ts";
import { phi3Config, phi3GenerationConfig } from "./phi3_configs.ts";
import { phi3GgufMetadata, phi3GgufTensors } from "./phi3_gguf.ts";
import { PHI3_SHAPES, type Phi3Size } from "./phi3_shape.ts";
import {
  phi3AddedTokens,
  phi3SpecialTokensMap,
  phi3Tokenizer,
  phi3TokenizerConfig,
  phi3TokenizerJson,
} from "./phi3_tokenizer.ts";
import { SyntheticWeights } from "./synthetic_weights.ts";

/**
 * How the same ONNX model lies in its folder.
 * - `genai`: as Microsoft publishes it, all in one folder, `phi3-….onnx` and `phi3-….onnx.data`.
 * - `hub`: as transformers.js and the bundled model have it, `onnx/model_q4.onnx` and `onnx/model_q4.onnx_data`, the
 *   latter in files below 2 GB.
 */
export const LAYOUTS = ["genai", "hub"] as const;
export type Layout = typeof LAYOUTS[number];

const HUB_FILE = "model_q4.onnx";
/** What a browser's cache takes. */
const HUB_FILE_BYTES = 2_000_000_000;

/** Which model: equal options give equal bytes. */
export interface SyntheticOptions {
  size: Phi3Size;
  seed: number;
}

/** The `.onnx` file of a size, relative to the folder. */
export function syntheticOnnxPath(size: Phi3Size, layout: Layout): string {
  if (layout === "hub") return `onnx/${HUB_FILE}`;
  const name = size === "phi-3-mini" ? "phi3-mini-4k-instruct" : `phi3-${size}`;
  return `${name}-cpu-int4-rtn-block-32-acc-level-4.onnx`;
}

/** The GGUF of a size, relative to the folder. */
export function syntheticGgufPath(size: Phi3Size): string {
  return `${size === "phi-3-mini" ? "Phi-3-mini-4k-instruct" : "Phi-3-tiny"}-q4_0.gguf`;
}

/** Writes the whole model folder, weights as they are made: one matrix is in memory at a time. */
export function writeSyntheticOnnx(store: FileStore, { size, seed }: SyntheticOptions, layout: Layout): void {
  const shape = PHI3_SHAPES[size];
  const path = syntheticOnnxPath(size, layout);
  const data = layout === "hub"
    ? new ExternalDataWriter(inFolder(store, "onnx"), transformersJsDataName(HUB_FILE), HUB_FILE_BYTES)
    : new ExternalDataWriter(store, () => `${path}.data`, Infinity);
  const builder = new OnnxBuilder(data, GENAI_STYLE);
  buildDecoderGraph(builder, new SyntheticWeights(shape, seed), shape);
  store.write(path, 0, builder.encode());

  const tokenizer = phi3Tokenizer(shape);
  const externalData = layout === "hub" ? { modelFileName: HUB_FILE, files: data.fileCount } : undefined;
  const json: Record<string, object> = {
    "config.json": phi3Config(shape, tokenizer.roles, externalData),
    "genai_config.json": genaiConfig("phi3", tokenizer.roles, shape, path),
    "generation_config.json": phi3GenerationConfig(tokenizer.roles),
    "added_tokens.json": phi3AddedTokens(tokenizer),
    "special_tokens_map.json": phi3SpecialTokensMap(tokenizer),
    "tokenizer.json": phi3TokenizerJson(tokenizer),
    "tokenizer_config.json": phi3TokenizerConfig(tokenizer, shape.contextLength),
  };
  for (const [name, value] of Object.entries(json)) store.write(name, 0, encodeJson(value));
}

/** Writes the GGUF of the same model: the same weights, Q4_0 for int4, F16 for the embedding. */
export function writeSyntheticGguf(store: FileStore, { size, seed }: SyntheticOptions): void {
  const shape = PHI3_SHAPES[size];
  const metadata = phi3GgufMetadata(`Synthetic ${size}, seed ${seed}`, shape, phi3Tokenizer(shape));
  writeGguf(store, syntheticGgufPath(size), metadata, phi3GgufTensors(new SyntheticWeights(shape, seed), shape));
}

/** External data is named relative to the `.onnx` file, the store's names are relative to the folder. */
function inFolder(store: FileStore, folder: string): FileStore {
  return { write: (name, offset, bytes) => store.write(`${folder}/${name}`, offset, bytes) };
}
