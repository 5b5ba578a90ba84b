/**
 * Graph capture of onnxruntime's WebGPU for decode steps: the commands of one run are recorded, and later runs on the
 * same buffers replay them. Phi-3-mini's step takes 6.7 ms in place of 20.
 *
 * The documented option is for a session as a whole: with it the JavaScript side of onnxruntime-web 1.30.0 freezes the
 * bindings at the first run, so that prefill and decode, or two sequences, could not share one set of weights. The C++
 * side could: it captures by `gpu_graph_id`. So the option is shown to the part that passes it on to C++, which reads it
 * first, and to nobody after. What a replay encodes is then kept by `recorded_step.ts`; a test sees that steps are
 * replayed.
 * https://github.com/microsoft/onnxruntime/issues/32456
 */
import type { InferenceSession } from "onnxruntime-web/jspi";

/** `options` with capture switched on in C++ only. Good for one session. */
export function withCapture(options: InferenceSession.SessionOptions): InferenceSession.SessionOptions {
  let reads = 0;
  const value = { get: () => reads++ === 0 || undefined, enumerable: true };
  return Object.defineProperty({ ...options }, "enableGraphCapture", value);
}

/** Of a run that is not to be captured. */
export const UNCAPTURED: InferenceSession.RunOptions = { extra: { gpu_graph_id: "-1" } };

/**
 * Of runs on the same buffers: the first is captured, the second replays it and is written down by `recorded_step.ts`,
 * which makes the others without onnxruntime. @param id one for each set of buffers
 */
export function captured(id: number): InferenceSession.RunOptions {
  return { extra: { gpu_graph_id: String(id) } };
}
