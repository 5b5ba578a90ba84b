/** In a page's bundle this takes the place of `backend/host_resources.ts`. */

/** Of the browsers that do not tell the machine's memory, in GiB. */
const UNTOLD_GIB = 4;

/** Threads share memory, and that is only for pages that are isolated from other origins. */
export const availableCpus = (): number => crossOriginIsolated ? navigator.hardwareConcurrency : 1;

/** A half of the machine's memory: what a page may take no browser tells. */
export function availableMemoryBytes(): number {
  const { deviceMemory = UNTOLD_GIB } = navigator as { deviceMemory?: number };
  return deviceMemory * 2 ** 30 / 2;
}
