import { ModelFileError } from "../src/errors.ts";
import { genaiConfig } from "./configs.ts";
import { buildDecoderGraph } from "./decoder_graph.ts";
import { ExternalDataWriter, transformersJsDataName } from "./external_data.ts";
import type { FileStore } from "./file_store.ts";
import { writeGguf } from "./gguf_writer.ts";
import { GENAI_STYLE, type GraphStyle, WEB_STYLE } from "./graph_style.ts";
import { encodeJson } from "./model_files.ts";
import { OnnxBuilder } from "./onnx_builder.ts";
import { phi3Config, phi3GenerationConfig } from "./phi3_configs.ts";
import { phi3GgufMetadata, phi3GgufTensors } from "./phi3_gguf.ts";
import { PHI3_SHAPES, type Phi3Shape, type Phi3Size } from "./phi3_shape.ts";
import {
  phi3AddedTokens,
  phi3SpecialTokensMap,
  phi3Tokenizer,
  phi3TokenizerConfig,
  phi3TokenizerJson,
} from "./phi3_tokenizer.ts";
import { SyntheticWeights } from "./synthetic_weights.ts";

/** How an ONNX model lies in its folder, and what its graph is like. */
export interface LayoutFiles {
  style: GraphStyle;
  /** The `.onnx` file below `onnx/`; absent for the name that Microsoft's folder for CPU has, beside the tokenizer. */
  hubFile?: string;
  /** Bytes of large tensors that a full-size `.onnx` file holds itself. */
  insideBytes?: number;
}

/**
 * The layouts that Phi-3-mini is published in, and ours.
 * - `genai`: microsoft/Phi-3-mini-4k-instruct-onnx for CPU, all in one folder, `phi3-….onnx` and `phi3-….onnx.data`.
 * - `hub`: the same graph as transformers.js and the bundled model have it, `onnx/model_q4.onnx` and
 *   `onnx/model_q4.onnx_data`, the latter in files below 2 GB.
 * - `hub-f16`: the same in f16, as the builder writes it for GPUs; onnx-community/Phi-4-mini-instruct-ONNX.
 * - `web`: microsoft/Phi-3-mini-4k-instruct-onnx-web, f16, a part of the weights in the `.onnx` file itself.
 * - `xenova`, `xenova-f16`: Xenova/Phi-3-mini-4k-instruct, its main and its fp16 revision.
 */
export const LAYOUTS = {
  genai: { style: GENAI_STYLE },
  hub: { style: GENAI_STYLE, hubFile: "model_q4.onnx" },
  "hub-f16": { style: { ...GENAI_STYLE, floatType: "f16" }, hubFile: "model_q4f16.onnx" },
  web: { style: { ...WEB_STYLE, floatType: "f16" }, hubFile: "model_q4f16.onnx", insideBytes: 838_000_000 },
  xenova: { style: WEB_STYLE, hubFile: "model_q4.onnx", insideBytes: 1_060_000_000 },
  "xenova-f16": { style: { ...WEB_STYLE, floatType: "f16" }, hubFile: "model_q4.onnx", insideBytes: 838_000_000 },
} as const satisfies Record<string, LayoutFiles>;
export type Layout = keyof typeof LAYOUTS;

/** What a browser's cache takes. */
const HUB_FILE_BYTES = 2_000_000_000;
/** Of large tensors inside a tiny `.onnx` file, where a full-size one has some. */
const TINY_INSIDE_BYTES = 60_000;

/** Which model: equal options give equal bytes. */
export interface SyntheticOptions {
  size: Phi3Size;
  seed: number;
  /** Tokens of the context. @default the size's */
  contextLength?: number;
}

/** The `.onnx` file of a size, relative to the folder. */
export function syntheticOnnxPath(size: Phi3Size, layout: Layout): string {
  const { hubFile }: LayoutFiles = LAYOUTS[layout];
  if (hubFile !== undefined) return `onnx/${hubFile}`;
  const name = size === "phi-3-mini" ? "phi3-mini-4k-instruct" : `phi3-${size}`;
  return `${name}-cpu-int4-rtn-block-32-acc-level-4.onnx`;
}

/** The GGUF of a size, relative to the folder. */
export function syntheticGgufPath(size: Phi3Size): string {
  return `${size === "phi-3-mini" ? "Phi-3-mini-4k-instruct" : "Phi-3-tiny"}-q4_0.gguf`;
}

/** Writes the whole model folder, weights as they are made: one matrix is in memory at a time. */
export function writeSyntheticOnnx(store: FileStore, options: SyntheticOptions, layout: Layout): void {
  const { size, seed } = options;
  const sized: Phi3Shape = PHI3_SHAPES[size];
  const shape = { ...sized, contextLength: options.contextLength ?? sized.contextLength };
  const { style, hubFile, insideBytes = 0 }: LayoutFiles = LAYOUTS[layout];
  const path = syntheticOnnxPath(size, layout);
  const inside = size === "phi-3-mini" ? insideBytes : Math.min(insideBytes, TINY_INSIDE_BYTES);
  const data = hubFile === undefined
    ? new ExternalDataWriter(store, () => `${path}.data`, Infinity, inside)
    : new ExternalDataWriter(inFolder(store, "onnx"), transformersJsDataName(hubFile), HUB_FILE_BYTES, inside);
  // A tied embedding has a row of scales for each token.
  const builder = new OnnxBuilder(data, { ...style, flatScales: !shape.tieWordEmbeddings });
  buildDecoderGraph(builder, new SyntheticWeights(shape, seed), shape);
  store.write(path, 0, builder.encode());

  const tokenizer = phi3Tokenizer(shape);
  const externalData = hubFile === undefined ? undefined : { modelFileName: hubFile, files: data.fileCount };
  const json: Record<string, object> = {
    "config.json": phi3Config(shape, tokenizer.roles, externalData),
    "genai_config.json": genaiConfig("phi3", tokenizer.roles, shape, path, style.attention === "mha"),
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
  const shape: Phi3Shape = PHI3_SHAPES[size];
  if (shape.longRope || shape.rotaryDim || shape.tieWordEmbeddings) {
    throw new ModelFileError(`Cannot write a GGUF of size ${size}: wanted one without LongRoPE and tied embedding`);
  }
  const metadata = phi3GgufMetadata(`Synthetic ${size}, seed ${seed}`, shape, phi3Tokenizer(shape));
  writeGguf(store, syntheticGgufPath(size), metadata, phi3GgufTensors(new SyntheticWeights(shape, seed), shape));
}

/** External data is named relative to the `.onnx` file, the store's names are relative to the folder. */
function inFolder(store: FileStore, folder: string): FileStore {
  return { write: (name, offset, bytes) => store.write(`${folder}/${name}`, offset, bytes) };
}
