import { genaiConfig, generationConfig, modelConfig, roleIds } from "./configs.ts";
import { buildDecoderGraph } from "./decoder_graph.ts";
import { ExternalDataWriter, transformersJsDataName } from "./external_data.ts";
import { MemoryStore } from "./file_store.ts";
import type { GgufSource } from "./gguf_source.ts";
import { GgufWeights } from "./gguf_weights.ts";
import { readModelShape } from "./model_shape.ts";
import { OnnxBuilder } from "./onnx_builder.ts";
import { specialTokensMap, tokenizerConfig, tokenizerJson } from "./tokenizer_json.ts";

const MODEL_FILE = "model_q4.onnx";

/**
 * Everything in the model folder that follows from the GGUF, by path relative to the folder.
 * @param maxFileBytes the most that one file of external data may hold
 * @throws {ModelFileError} when the GGUF is not of a kind that we convert
 */
export function buildModelFiles(source: GgufSource, maxFileBytes: number): Map<string, Uint8Array> {
  const shape = readModelShape(source);
  const store = new MemoryStore();
  const builder = new OnnxBuilder(new ExternalDataWriter(store, transformersJsDataName(MODEL_FILE), maxFileBytes));
  buildDecoderGraph(builder, new GgufWeights(source, shape), shape);
  const weights = store.files();
  return new Map([
    ["config.json", encodeJson(modelConfig(source, shape, MODEL_FILE, weights.size))],
    ["genai_config.json", encodeJson(genaiConfig("llama", roleIds(source), shape, `onnx/${MODEL_FILE}`))],
    ["generation_config.json", encodeJson(generationConfig(source))],
    ["special_tokens_map.json", encodeJson(specialTokensMap(source))],
    ["tokenizer.json", encodeJson(tokenizerJson(source))],
    ["tokenizer_config.json", encodeJson(tokenizerConfig(source, shape.contextLength))],
    [`onnx/${MODEL_FILE}`, builder.encode()],
    ...[...weights].map(([name, bytes]): [string, Uint8Array] => [`onnx/${name}`, bytes]),
  ]);
}

/** `value` as the bytes of a JSON file, indented so that a change shows as a small diff. */
export function encodeJson(value: object): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value, null, 2) + "\n");
}
