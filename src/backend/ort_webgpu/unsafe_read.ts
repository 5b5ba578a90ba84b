/**
 * Reads a buffer without waiting for its promise. Not documented, opt-in only (`WEBGPU_UNSAFE`): in Deno 2.9.6 an
 * awaited `mapAsync` takes 11.5 ms whatever there is to wait for, because Deno looks for finished work that often; but
 * the map itself is in place when `mapAsync` has returned, after the work that it waits for. Any release of Deno may
 * change that; `getMappedRange` then throws, and a test notices.
 */
import { MAP_MODE_READ } from "./gpu_usage.ts";

/** @param buffer `MAP_READ`, mapped once before by the documented way. The caller unmaps it */
export function readNow(buffer: GPUBuffer): ArrayBuffer {
  buffer.mapAsync(MAP_MODE_READ).catch(() => {});
  return buffer.getMappedRange().slice(0);
}
