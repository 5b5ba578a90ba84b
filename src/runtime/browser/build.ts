/**
 * Bundles Hearth for a page, with the files that have to lie beside the bundle.
 *
 *   bun src/runtime/browser/build.ts --out folder
 */
import { cp, mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { VARIANTS } from "../../backend/simd/kernels.ts";

const ROOT = join(import.meta.dirname, "..", "..", "..");

/** By their paths in the repository, as `host/assets.ts` has them. */
const ASSETS = [
  "src/model/onnx.proto",
  ...VARIANTS.flatMap((variant) => ["kernels.js", "kernels_bg.wasm"].map((name) => `wasm/pkg/${variant}/${name}`)),
];

/** Beside `hearth_worker.js`, where onnxruntime-web looks for it. */
const ONNXRUNTIME = "ort-wasm-simd-threaded.jspi.wasm";

const { out } = parseArgs({ options: { out: { type: "string" } } }).values;
if (out === undefined) throw new Error("Cannot bundle: wanted --out folder");

const { outputs } = await Bun.build({
  entrypoints: ["hearth.ts", "hearth_worker.ts"].map((name) => join(import.meta.dirname, name)),
  outdir: out,
  target: "browser",
  minify: { whitespace: true, syntax: true },
});
for (const path of ASSETS) await copy(join(ROOT, path), join(out, path));
await copy(fileURLToPath(import.meta.resolve(`onnxruntime-web/${ONNXRUNTIME}`)), join(out, ONNXRUNTIME));
for (const { path, size } of outputs) console.log(`${path} ${Math.ceil(size / 1024)} KiB`);

async function copy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await cp(from, to);
}
