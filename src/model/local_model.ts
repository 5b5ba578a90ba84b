import { stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { ModelFileError } from "../errors.ts";

/** The model that comes with the repository. */
export const BUNDLED_MODEL = "smollm2-135m-instruct";

const modelsDir = resolve(import.meta.dirname!, "..", "..", "models");

/**
 * The folder of a model by name under `models/` or by path; `undefined` where neither is one.
 */
export async function localModelPath(nameOrPath: string = BUNDLED_MODEL): Promise<string | undefined> {
  for (const path of candidates(nameOrPath)) {
    if ((await stat(path).catch(() => undefined))?.isDirectory()) return path;
  }
  return undefined;
}

/**
 * {@linkcode localModelPath}, where there has to be one.
 * @throws {ModelFileError} when neither is a folder
 */
export async function resolveModelPath(nameOrPath: string = BUNDLED_MODEL): Promise<string> {
  const path = await localModelPath(nameOrPath);
  if (path !== undefined) return path;
  throw new ModelFileError(
    `Cannot find model "${nameOrPath}": wanted a folder at ${candidates(nameOrPath).join(" or ")}; ` +
      `the bundled model is "${BUNDLED_MODEL}"`,
  );
}

const candidates = (nameOrPath: string): string[] => [
  ...(/^[\w.-]+$/.test(nameOrPath) ? [join(modelsDir, nameOrPath)] : []),
  resolve(nameOrPath),
];
