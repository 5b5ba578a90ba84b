import { OutOfMemoryError } from "../../errors.ts";
import type { DecoderGraph } from "../../model/decoder_graph.ts";
import { kvBytesPerToken, type ModelConfig } from "../../model/model_config.ts";
import { quantizedProducts, weightBytes, type WeightForm } from "./graph_rewrite.ts";

const GIB = 2 ** 30;
/** What a WASM memory with 32-bit addresses ends at; onnxruntime-web has no other. */
const HEAP_BYTES = 4 * GIB;
/** Runtime, graph and what a pass needs beside weights and KV; 110 MiB were measured on the bundled model. */
const OVERHEAD_BYTES = 160 * 2 ** 20;

/** What a model takes in one form, in bytes. */
interface Demand {
  /** In the WASM heap: weights, what expanding or packing them adds, overhead. */
  heap: number;
  /** In all while loading: weights are here and in the heap. */
  loading: number;
}

/** The form that was chosen, and why, for people. */
export interface ChosenForm {
  form: WeightForm;
  detail: string;
}

/**
 * f32 where it fits, 7 to 11 times faster at one token; else the file's int4. A form fits when one conversation that
 * fills the context has room beside it.
 * @param budget bytes that this process may take
 * @throws {OutOfMemoryError} when no form that may be taken fits, with the figures and what would fit
 */
export function chooseWeights(
  decoder: DecoderGraph,
  config: ModelConfig,
  wanted: WeightForm | "auto",
  budget: number,
): ChosenForm {
  const bytes = weightBytes(decoder);
  const largest = Math.max(...quantizedProducts(decoder).map(({ n, k }) => n * k * 4));
  const kv = config.contextLength * kvBytesPerToken(config);
  const demands: Record<WeightForm, Demand> = {
    // onnxruntime packs f32 matrices into a copy of its own.
    f32: { heap: 2 * bytes.f32 + OVERHEAD_BYTES, loading: 3 * bytes.f32 + OVERHEAD_BYTES },
    // A product expands its matrix to f32 in every call.
    int4: { heap: bytes.int4 + largest + OVERHEAD_BYTES, loading: 2 * bytes.int4 + largest + OVERHEAD_BYTES },
  };
  const fits = (form: WeightForm) => demands[form].loading <= budget && demands[form].heap + kv <= HEAP_BYTES;
  const form = wanted === "auto" ? (fits("f32") ? "f32" : "int4") : wanted;
  if (fits(form)) {
    const why = wanted === "auto" ? `, f32 would take ${gib(demands.f32.loading)} of ${gib(budget)}` : "";
    return { form, detail: form === "f32" ? "weights expanded to f32 at load" : `the file's int4 weights${why}` };
  }
  const forms = wanted === "auto" ? ["f32", "int4"] as const : [wanted];
  const figures = forms.map((form) =>
    `as ${form} its weights are ${gib(bytes[form])} and take ${gib(demands[form].heap)} of the heap, ` +
    `${gib(demands[form].loading)} while loading`
  );
  throw new OutOfMemoryError(
    `Cannot load the model into onnxruntime-web: ${figures.join("; ")}; KV takes ` +
      `${Math.ceil(kvBytesPerToken(config) / 1024)} KiB a token, ${
        gib(kv)
      } for the context of ${config.contextLength}; ` +
      `a WASM heap ends at ${gib(HEAP_BYTES)} and ${gib(budget)} may be used here. ${
        advice(demands.int4, config, budget)
      }`,
  );
}

/** What would fit instead. */
function advice({ heap, loading }: Demand, config: ModelConfig, budget: number): string {
  const tokens = Math.max(0, Math.floor((HEAP_BYTES - heap) / kvBytesPerToken(config)));
  const here = loading > budget ? `${gib(loading)} of memory for the int4 weights` : "";
  const context = tokens < config.contextLength ? `${tokens} tokens of context beside them` : "";
  const wishes = [here, context].filter(Boolean).join(" and ");
  return `What would fit: ${wishes}, or the backend "simd", which keeps weights packed and has KV as int8`;
}

const gib = (bytes: number) => `${(bytes / GIB).toFixed(1)} GiB`;
