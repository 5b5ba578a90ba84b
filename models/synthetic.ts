/**
 * Writes a Phi-3 model of seeded random weights, for measuring and testing what has Phi-3's shapes:
 * `bun models/synthetic.ts --size phi-3-mini|tiny|… --out folder [--format onnx|gguf] [--layout genai|hub|web|…]
 * [--seed N]`. Sizes are in `phi3_shape.ts`, layouts in `synthetic_model.ts`. The same options give the same bytes, and both formats hold the same weights.
 */
import { parseArgs } from "node:util";
import { ModelFileError } from "../src/errors.ts";
import { DiskStore } from "./file_store.ts";
import { phi3Size } from "./phi3_shape.ts";
import { type Layout, LAYOUTS, writeSyntheticGguf, writeSyntheticOnnx } from "./synthetic_model.ts";

const { values } = parseArgs({
  options: {
    size: { type: "string" },
    out: { type: "string" },
    format: { type: "string", default: "onnx" },
    layout: { type: "string", default: "genai" },
    seed: { type: "string", default: "0" },
  },
});

/** The one of `known` that was asked for. */
function choice<T extends string>(option: string, known: readonly T[], value: string): T {
  const found = known.find((item) => item === value);
  if (found !== undefined) return found;
  throw new ModelFileError(`Cannot make a synthetic model: ${option} ${value}, wanted ${known.join(" or ")}`);
}

const size = phi3Size(values.size);
const format = choice("format", ["onnx", "gguf"], values.format);
const layout = choice("layout", Object.keys(LAYOUTS) as Layout[], values.layout);
const seed = Number(values.seed);
if (!Number.isSafeInteger(seed) || seed < 0) {
  throw new ModelFileError(`Cannot make a synthetic model: seed ${values.seed}, wanted a whole number from 0`);
}
if (values.out === undefined) {
  throw new ModelFileError("Cannot make a synthetic model: no folder came, wanted --out folder");
}

const start = performance.now();
using store = new DiskStore(values.out);
if (format === "gguf") writeSyntheticGguf(store, { size, seed });
else writeSyntheticOnnx(store, { size, seed }, layout);
for (const [name, bytes] of store.sizes()) console.log(`Wrote ${name}, ${(bytes / 1e6).toFixed(2)} MB`);
console.log(`${((performance.now() - start) / 1000).toFixed(1)} s`);
