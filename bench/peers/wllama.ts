/** wllama, llama.cpp as WebAssembly, where it runs: in a page of headless Chromium that may share memory. */
import { fileURLToPath } from "node:url";
import wllamaPackage from "@wllama/wllama/package.json" with { type: "json" };
import { descendantsMiB, launchChromium } from "./chromium.ts";
import { serveIsolated } from "./isolated_server.ts";
import { requireGguf, servePeer } from "./peer.ts";

await servePeer(async (task) => {
  const installed = (file: string) => fileURLToPath(import.meta.resolve(`@wllama/wllama/esm/${file}`));
  const model = requireGguf(task);
  const browser = await launchChromium();
  const { origin } = await serveIsolated({
    "/wllama.js": { path: installed("index.js"), type: "text/javascript" },
    "/wllama.wasm": { path: installed("wasm/wllama.wasm"), type: "application/wasm" },
    "/model.gguf": { path: model, type: "application/octet-stream" },
  });
  const page = await browser.newPage();
  page.setDefaultTimeout(0);
  await page.goto(origin);

  // What the functions given to `evaluate` say runs in the page: they see their arguments only.
  const wllama = await page.evaluateHandle(async ({ origin, threads }) => {
    const { Wllama, LoggerWithoutDebug } = await import(`${origin}/wllama.js`) as typeof import("@wllama/wllama");
    const config = { suppressNativeLog: true, logger: LoggerWithoutDebug };
    const wllama = new Wllama({ default: `${origin}/wllama.wasm` }, config);
    await wllama.loadModelFromUrl(`${origin}/model.gguf`, {
      n_threads: threads,
      n_ctx: 1024,
      n_batch: 512,
      n_ubatch: 512,
      n_parallel: 1,
      n_gpu_layers: 0,
      flash_attn: true,
      useCache: false,
    });
    return wllama;
  }, { origin, threads: task.threads });
  const [threads, llamaCpp] = await wllama.evaluate((wllama) => [
    wllama.isMultithread() ? wllama.getNumThreads() : 1,
    (wllama.constructor as typeof import("@wllama/wllama").Wllama).getLibllamaVersion(),
  ]);
  if (threads !== task.threads) throw new Error(`Cannot measure wllama: ${threads} threads, wanted ${task.threads}`);

  return {
    version: `wllama ${wllamaPackage.version}, llama.cpp ${llamaCpp}`,
    runsIn: `Chromium ${browser.version()}`,
    generate: ({ prompt: { text: prompt }, maxTokens }) =>
      wllama.evaluate(async (wllama, { prompt, maxTokens }) => {
        const startedAt = performance.now();
        const tokenMs: number[] = [];
        let [text, promptTokens] = ["", 0];
        const options = { prompt, max_tokens: maxTokens, temperature: 0, ignore_eos: true, cache_prompt: false };
        for await (const { choices, usage } of await wllama.createCompletion({ ...options, stream: true })) {
          tokenMs.push(performance.now() - startedAt);
          text += choices[0]?.text ?? "";
          if (!usage) continue;
          const pieces = tokenMs.length;
          if (pieces < usage.completion_tokens) {
            throw new Error(`Cannot measure wllama: ${usage.completion_tokens} tokens came in ${pieces} pieces`);
          }
          // How many there were may come in a piece of its own.
          tokenMs.length = usage.completion_tokens;
          promptTokens = usage.prompt_tokens - (usage.prompt_tokens_details?.cached_tokens ?? 0);
        }
        return { output: { text }, promptTokens, tokenMs };
      }, { prompt, maxTokens }),
    residentMiB: descendantsMiB,
    close: () => browser.close(),
  };
});
