import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { insideFolder, isFile, join } from "../host/files.ts";
import { readWhole } from "./read_whole.ts";

/** What a graph has beside its int4 weights, and what a backend computes in. */
export type FloatType = "f32" | "f16";

/** Where graphs are that transformers.js reads. */
export const HUB_FILES: Readonly<Record<FloatType, string>> = {
  f32: "onnx/model_q4.onnx",
  f16: "onnx/model_q4f16.onnx",
};
const GENAI_CONFIG = "genai_config.json";
const genaiConfig = z.object({ model: z.object({ decoder: z.object({ filename: z.string().min(1) }) }) });

/** The graph that a parsed `genai_config.json` names; `undefined` where it names none. */
export const genaiGraph = (json: unknown): string | undefined =>
  genaiConfig.safeParse(json).data?.model.decoder.filename;

/**
 * The int4 graph of a model folder: `onnx/model_q4.onnx` or `onnx/model_q4f16.onnx` as transformers.js has them, or what
 * `genai_config.json` names, as onnxruntime-genai has it.
 * https://onnxruntime.ai/docs/genai/reference/config.html
 * @param floats which of the first two, where there are both: nothing is rounded or widened then, and an f16 one is smaller
 * @throws {ModelFileError} when there is neither
 */
export function onnxFile(modelDir: string, floats: FloatType = "f32"): string {
  const hubFiles = [HUB_FILES[floats], HUB_FILES.f32, HUB_FILES.f16];
  const hubPath = hubFiles.map((name) => join(modelDir, name)).find((path) => isFile(path));
  if (hubPath !== undefined) return hubPath;
  const configPath = join(modelDir, GENAI_CONFIG);
  if (!isFile(configPath)) {
    throw new ModelFileError(
      `Cannot find a graph in ${modelDir}: wanted ${[...Object.values(HUB_FILES), GENAI_CONFIG].join(" or ")}`,
    );
  }
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(readWhole(configPath)));
  } catch (cause) {
    throw new ModelFileError(`Cannot read ${configPath}: ${(cause as Error).message}`, { cause });
  }
  const parsed = genaiConfig.safeParse(json);
  if (!parsed.success) {
    throw new ModelFileError(`Cannot use ${configPath}: ${z.prettifyError(parsed.error)}`, { cause: parsed.error });
  }
  const { filename } = parsed.data.model.decoder;
  const path = join(modelDir, filename);
  if (!insideFolder(modelDir, path)) {
    throw new ModelFileError(`Cannot use ${configPath}: decoder.filename "${filename}" is outside the model folder`);
  }
  return path;
}
