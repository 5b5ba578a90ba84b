import type { Backend } from "./backend.ts";

/** Tokens before those that are timed: they compile shaders, wake threads and fill what is pipelined. */
const WARM_UP = 8;
const TIMED = 16;

/**
 * Milliseconds that a token of a short greedy answer takes, as the engine would ask for it. The answer of the model
 * itself on the machine itself: bandwidth or a product alone would say little of a GPU that waits for its host.
 */
export async function probeDecode(backend: Backend): Promise<number> {
  using cache = backend.createKvCache();
  let id = 0;
  const decode = async (tokens: number) => {
    for (let ahead = tokens - 1; ahead >= 0; ahead--) {
      const [row] = await backend.forward([{ cache, tokenIds: [id], top: 1, ahead }]);
      id = row!.top?.[0]?.ids[0] ?? 0;
    }
  };
  await decode(WARM_UP);
  const startedAt = performance.now();
  await decode(TIMED);
  return (performance.now() - startedAt) / TIMED;
}
