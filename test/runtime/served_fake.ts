import { createApp } from "../../src/http/app.ts";
import type { FakeBackend } from "../fakes/fake_backend.ts";
import { fakeEngine } from "../fakes/fake_engine.ts";
import { listen } from "./this_runtime.ts";

export interface Served extends AsyncDisposable {
  backend: FakeBackend;
  post(path: string, body: object, signal?: AbortSignal): Promise<Response>;
}

/** A real socket with this runtime's listener over a model that takes `delayMs` a pass and counts passes. */
export function served(delayMs: number): Served {
  const { engine, backend } = fakeEngine({ delayMs });
  const listener = listen({ hostname: "127.0.0.1", port: 0, fetch: createApp(engine).fetch });
  return {
    backend,
    post: (path, body, signal) =>
      fetch(`http://127.0.0.1:${listener.port}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
        signal,
      }),
    async [Symbol.asyncDispose]() {
      await engine.drain(0);
      await listener.stop();
    },
  };
}
