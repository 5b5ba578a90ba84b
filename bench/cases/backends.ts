import { cpus } from "node:os";
import type { Backend } from "../../src/backend/backend.ts";
import { availableCpus, availableMemoryBytes } from "../../src/backend/host_resources.ts";
import { createOrtWasmBackend } from "../../src/backend/ort_wasm/ort_wasm_backend.ts";
import { createOrtWebgpuBackend } from "../../src/backend/ort_webgpu/ort_webgpu_backend.ts";
import { createSimdBackend } from "../../src/backend/simd/simd_backend.ts";
import { resolveModelPath } from "../../src/model/local_model.ts";
import { readModelFolder } from "../../src/model/model_folder.ts";
import { parseEnvironment } from "../../src/runtime/options.ts";
import { measure } from "../gpu/measure.ts";
import { compare, makeReference, promptIds, PROMPTS } from "../gpu/reference.ts";
import type { MachineCase } from "./case.ts";

/** How near the best two logits have to be for rounding to choose between them, in exact arithmetic's eyes. */
const NEAR_TIE = 0.05;

/** All backends on the same model, one after the other. */
export const backends: MachineCase = async ({ quick, progress }) => {
  const { model: name, threads = availableCpus(), kv, webgpuUnsafe } = parseEnvironment(process.env);
  const model = await readModelFolder(await resolveModelPath(name));
  const { config } = model;
  const { vocabSize, contextLength } = config;
  const common = { modelDir: model.path, config, threads };
  const starts: Record<string, () => Promise<Backend>> = {
    "simd": () => createSimdBackend({ ...common, kv }),
    "ort-wasm": () => createOrtWasmBackend({ ...common, memoryBudgetBytes: 0.7 * availableMemoryBytes() }),
    // What a GPU's software twin does on the CPU is no measure of anything.
    "ort-webgpu": () => createOrtWebgpuBackend({ ...common, software: false, unsafe: webgpuUnsafe }),
  };
  progress("exact arithmetic");
  const references = [];
  {
    await using exact = await createSimdBackend({ ...common, activations: "f32" });
    for (const tokens of quick ? [PROMPTS[0]] : PROMPTS) {
      references.push(await makeReference(exact, promptIds(tokens, vocabSize), quick ? 8 : 40));
    }
  }
  const contexts = (quick ? [100] : [100, 3000]).filter((context) => context + 200 < contextLength);
  const prefills = (quick ? [64] : [64, 512]).map((tokens) => ({ tokens, chunk: 512 }));
  const [rows, skipped] = [[], []] as [Record<string, string | number>[], string[]];
  for (const [name, start] of Object.entries(starts)) {
    progress(name);
    try {
      const startedAt = performance.now();
      await using backend = await start();
      const loadS = (performance.now() - startedAt) / 1000;
      let different = 0;
      for (const reference of references) {
        const agreement = await compare(backend, reference, vocabSize, 512);
        different += agreement.different.length;
        const wrong = agreement.different.find(({ gap }) => gap > NEAR_TIE);
        // Activations rounded to int8 are another arithmetic: how far it is off is what the row says.
        if (wrong && name !== "simd") {
          throw new Error(`Cannot time ${name}: id ${wrong.got} at step ${wrong.step}, wanted ${wrong.wanted}`);
        }
      }
      const { prefill, decode } = await measure(backend, {
        vocabSize,
        prefills,
        contexts,
        aheads: [contextLength],
        decodeTokens: quick ? 8 : 64,
        repeats: quick ? 1 : 3,
      });
      rows.push({
        backend: name,
        on: backend.info.device ?? cpus()[0]!.model.trim(),
        "load s": loadS,
        "ids unlike exact": `${different} of ${references.reduce((sum, { ids }) => sum + ids.length, 0)}`,
        "first token ms": prefill[0]!.bestMs,
        ...Object.fromEntries(prefill.map(({ tokens, tokensPerS }) => [`prefill ${tokens} tok/s`, tokensPerS])),
        ...Object.fromEntries(decode.map(({ context, tokensPerS }) => [`decode at ${context} tok/s`, tokensPerS])),
      });
    } catch (error) {
      skipped.push(`${name} is left out: ${(error as Error).message}`);
    }
  }
  const figure = (key: string) => Object.fromEntries(rows.map((row) => [`${row.backend} ${key}`, row[key] as number]));
  return {
    name: "backends",
    question: `How fast is each backend on ${model.id}?`,
    checked: [`greedy ids against f32 after ${references.map(({ promptTokens }) => promptTokens)} tokens`, ...skipped]
      .join("; "),
    rows,
    figures: Object.assign({}, ...["first token ms", "prefill 64 tok/s", "decode at 100 tok/s"].map(figure)),
    plot: {
      title: `Decode, ${model.id}`,
      x: "tokens of context",
      y: "tokens a second",
      points: rows.flatMap((row) =>
        contexts.map((context) => ({
          x: context,
          y: row[`decode at ${context} tok/s`] as number,
          series: `${row.backend} on ${row.on}`,
        }))
      ),
    },
  };
};
