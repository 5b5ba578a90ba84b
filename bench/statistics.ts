/** Arithmetic mean. @throws {RangeError} of nothing */
export function mean(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError("Cannot average: there are no values");
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Standard deviation of a sample; 0 of a single value. */
export function standardDeviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const average = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - average) ** 2, 0) / (values.length - 1));
}

/**
 * The smallest of several timings: on a machine with neighbours, what the work takes when nobody disturbs it.
 * @param run called `times` times; gives milliseconds
 */
export async function best(times: number, run: () => Promise<number>): Promise<number> {
  let smallest = Infinity;
  for (let i = 0; i < times; i++) smallest = Math.min(smallest, await run());
  return smallest;
}

/** Milliseconds that `work` takes. */
export async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const startedAt = performance.now();
  await work();
  return performance.now() - startedAt;
}

/** The value that so many percent do not exceed, by nearest rank. @throws {RangeError} of nothing */
export function percentile(values: readonly number[], percent: number): number {
  if (values.length === 0) throw new RangeError("Cannot rank: there are no values");
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)]!;
}
