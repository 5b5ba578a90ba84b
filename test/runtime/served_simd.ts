import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DiskStore } from "../../models/file_store.ts";
import { writeSyntheticOnnx } from "../../models/synthetic_model.ts";
import { createSimdBackend, type SimdOptions } from "../../src/backend/simd/simd_backend.ts";
import type { ThreadBackend } from "../../src/backend/thread_backend.ts";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import { createApp } from "../../src/http/app.ts";
import { modelIdentity, readModelFolder } from "../../src/model/model_folder.ts";
import { SessionFiles } from "../../src/session/session_files.ts";
import { listen } from "./this_runtime.ts";

/** Options of {@linkcode servedSimd}. */
export interface ServedSimdOptions
  extends Partial<EngineOptions>, Pick<SimdOptions, "threads" | "maxHeapBytes" | "restarts"> {
  dataDir?: string;
  /** @default "tiny" */
  size?: "tiny" | "tiny-wide";
  /** Tokens of the model's context. @default 512 */
  contextLength?: number;
  /** What the model's name begins with; it is in every event of a stream. @default "hearth-phi3-" */
  name?: string;
}

/** What an answer came to. */
export interface Asked {
  status: number;
  text: string;
  /** Why there is no answer. */
  error: { code: string; message: string } | undefined;
  // deno-lint-ignore no-explicit-any -- as it came
  hearth: any;
}

export type ServedSimd = Awaited<ReturnType<typeof servedSimd>>;

/** A real socket over our own engine, with a tiny Phi-3 in it: all but the weights' meaning is as in production. */
export async function servedSimd(served: ServedSimdOptions = {}) {
  const { dataDir, size = "tiny", threads = 2, maxHeapBytes, restarts, contextLength, ...rest } = served;
  const { name = "hearth-phi3-", ...options } = rest;
  const folder = await mkdtemp(join(tmpdir(), name));
  using store = new DiskStore(folder);
  writeSyntheticOnnx(store, { size, seed: 1, contextLength }, "hub");
  const model = await readModelFolder(folder);
  const simd = { modelDir: folder, config: model.config, threads, maxHeapBytes, restarts };
  const backend = await createSimdBackend(simd) as ThreadBackend;
  const storage = dataDir === undefined
    ? undefined
    : await SessionFiles.open(dataDir, modelIdentity(model), backend.info.variant);
  const engine = new Engine(model, backend, { kvBudgetBytes: 2 ** 24, storage, ...options });
  const listener = listen({ hostname: "127.0.0.1", port: 0, fetch: createApp(engine).fetch });
  const url = `http://127.0.0.1:${listener.port}`;
  const post = (path: string, body: object) =>
    fetch(url + path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  return {
    backend,
    engine,
    port: listener.port,
    post,
    /** A whole chat answer. */
    async ask(messages: readonly { role: string; content: string }[], fields: object = {}): Promise<Asked> {
      const response = await post("/v1/chat/completions", { messages, max_tokens: 20, ignore_eos: true, ...fields });
      const { choices, hearth, error } = await response.json();
      return { status: response.status, text: choices?.[0].message.content, error, hearth };
    },
    async [Symbol.asyncDispose]() {
      await engine.drain(0);
      await listener.stop();
      await engine[Symbol.asyncDispose]();
      await rm(folder, { recursive: true, force: true });
    },
  };
}
