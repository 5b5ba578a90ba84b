/** Index of the largest value; the first of equals. `NaN` counts as `-Infinity`. */
export function argmax(values: Float32Array): number {
  let best = 0;
  let bestValue = -Infinity;
  for (let i = 0; i < values.length; i++) {
    if (values[i]! > bestValue) {
      bestValue = values[i]!;
      best = i;
    }
  }
  return best;
}

/** Natural logarithm of the sum of `exp(logits)`, without overflow. `NaN` counts as `-Infinity`. */
export function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)]!;
  // Infinity less itself would be NaN.
  if (!Number.isFinite(max)) return max === Infinity ? max : -Infinity;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) {
    // False for NaN, too.
    if (logits[i]! > -Infinity) sum += Math.exp(logits[i]! - max);
  }
  return max + Math.log(sum);
}

/** Probabilities that belong to `logits`, f64 inside, f32 `[logits.length]` out. */
export function softmax(logits: Float32Array): Float32Array {
  const norm = logSumExp(logits);
  return logits.map((logit) => Math.exp(logit - norm));
}

/** Some of the vocabulary, best first. */
export interface TopK {
  ids: Int32Array;
  logits: Float32Array;
  /** Of the whole vocabulary's softmax, so they add up to less than 1. */
  probabilities: Float64Array;
}

/** The `k` largest logits, best first; of equal ones the lower id first. */
export function topK(logits: Float32Array, k: number): TopK {
  const ids = largest(logits, k);
  const norm = logSumExp(logits);
  return {
    ids,
    logits: Float32Array.from(ids, (id) => logits[id]!),
    probabilities: Float64Array.from(ids, (id) => Math.exp(logits[id]! - norm)),
  };
}

/**
 * Ids of the `k` largest values (of all where there are fewer), best first, of equal ones the lower id first.
 * `NaN` counts as `-Infinity`.
 * A heap of the best so far: one comparison for nearly all of a vocabulary, where sorting it would take milliseconds.
 */
export function largest(values: Float32Array, k: number): Int32Array {
  k = Math.min(k, values.length);
  if (k <= 0) return new Int32Array(0);
  // heap[0] is the worst of the best.
  const heap = new Int32Array(k);
  const rank = (id: number) => Number.isNaN(values[id]) ? -Infinity : values[id]!;
  const worse = (a: number, b: number) => rank(a) < rank(b) || (rank(a) === rank(b) && a > b);
  let size = 0;
  const siftDown = (from: number) => {
    let at = from;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= size) return;
      if (child + 1 < size && worse(heap[child + 1]!, heap[child]!)) child++;
      if (!worse(heap[child]!, heap[at]!)) return;
      [heap[at], heap[child]] = [heap[child]!, heap[at]!];
      at = child;
    }
  };
  while (size < k) heap[size] = size++;
  for (let at = (k >> 1) - 1; at >= 0; at--) siftDown(at);
  let threshold = rank(heap[0]!);
  for (let id = k; id < values.length; id++) {
    // Ids come in order, so an equal value is the worse one.
    if (!(values[id]! > threshold)) continue;
    heap[0] = id;
    siftDown(0);
    threshold = rank(heap[0]!);
  }
  return heap.sort((a, b) => (worse(a, b) ? 1 : -1));
}
