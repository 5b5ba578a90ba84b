/** What a page's threads run, bundled as `hearth_worker.js`. */
import { becomeProgram } from "./threads.ts";

becomeProgram({
  "simd/inference_worker.ts": () => import("../../backend/simd/inference_worker.ts"),
  "simd/pool_worker.ts": () => import("../../backend/simd/pool_worker.ts"),
  "ort_webgpu/inference_worker.ts": () => import("../../backend/ort_webgpu/inference_worker.ts"),
  "tokenizer/encoding_worker.ts": () => import("../../tokenizer/encoding_worker.ts"),
  "tokenizer/template_worker.ts": () => import("../../tokenizer/template_worker.ts"),
});
