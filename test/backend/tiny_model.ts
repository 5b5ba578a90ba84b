import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { buildModelFiles } from "../../models/model_files.ts";
import { type ModelConfig, parseModelConfig } from "../../src/model/model_config.ts";
import { tinyGguf } from "../models/tiny_gguf.ts";

/** A model folder on disk; gone when disposed. */
export interface TinyModel extends AsyncDisposable {
  path: string;
  onnxPath: string;
  config: ModelConfig;
}

/** Writes a two-layer model of random weights in the bundled model's layout: real files, loaded in a moment. */
export async function tinyModel(contextLength = 256): Promise<TinyModel> {
  const path = await mkdtemp(join(tmpdir(), "hearth-tiny-"));
  const files = buildModelFiles(tinyGguf(contextLength), 50_000_000);
  for (const [name, bytes] of files) {
    mkdirSync(dirname(join(path, name)), { recursive: true });
    await writeFile(join(path, name), bytes);
  }
  return {
    path,
    onnxPath: join(path, "onnx", "model_q4.onnx"),
    config: parseModelConfig(JSON.parse(new TextDecoder().decode(files.get("config.json")))),
    [Symbol.asyncDispose]: () => rm(path, { recursive: true, force: true }),
  };
}
