import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { ModelFileError } from "../errors.ts";
import { insideFolder } from "./external_tensor.ts";

const HUB_FILES = ["model_q4.onnx", "model_q4f16.onnx"].map((name) => join("onnx", name));
const GENAI_CONFIG = "genai_config.json";
const genaiConfig = z.object({ model: z.object({ decoder: z.object({ filename: z.string().min(1) }) }) });

/**
 * The int4 graph of a model folder: `onnx/model_q4.onnx` or `onnx/model_q4f16.onnx` as transformers.js has them, or what
 * `genai_config.json` names, as onnxruntime-genai has it.
 * https://onnxruntime.ai/docs/genai/reference/config.html
 * @throws {ModelFileError} when there is neither
 */
export function onnxFile(modelDir: string): string {
  const hubPath = HUB_FILES.map((name) => join(modelDir, name)).find((path) => existsSync(path));
  if (hubPath !== undefined) return hubPath;
  const configPath = join(modelDir, GENAI_CONFIG);
  if (!existsSync(configPath)) {
    throw new ModelFileError(`Cannot find a graph in ${modelDir}: wanted ${[...HUB_FILES, GENAI_CONFIG].join(" or ")}`);
  }
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(configPath, "utf8"));
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
