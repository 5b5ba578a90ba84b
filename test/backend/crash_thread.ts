import assert from "node:assert/strict";
import type { ThreadBackend } from "../../src/backend/thread_backend.ts";

/** Crashes the inference thread, and resolves when another has taken its place. */
export async function crashThread(backend: ThreadBackend): Promise<void> {
  const { thread } = backend;
  await killThread(backend);
  while (backend.thread === thread) await new Promise((resolve) => setTimeout(resolve, 2));
}

/**
 * Crashes the inference thread for real, after the pass in flight: its engine is asked for a token far outside the
 * vocabulary, which the backend would refuse.
 */
export async function killThread(backend: ThreadBackend): Promise<void> {
  const { thread } = backend;
  const tokenIds = [0];
  const doomed = backend.forward([{ tokenIds }]);
  // Checked already, and not yet sent.
  tokenIds[0] = 1e6;
  await assert.rejects(doomed, { name: "BackendUnavailableError", message: /the engine trapped/ });
  await thread.died;
}
