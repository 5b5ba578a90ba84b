/** transformers.js on the same folder: native onnxruntime underneath. */
import { env, pipeline, Tensor, TextStreamer } from "@huggingface/transformers";
import { basename, dirname } from "node:path";
import { servePeer } from "./peer.ts";

await servePeer(async ({ modelFolder, threads }) => {
  env.allowRemoteModels = false;
  env.localModelPath = dirname(modelFolder);
  const { model, tokenizer } = await pipeline("text-generation", basename(modelFolder), {
    dtype: "q4",
    device: "cpu",
    session_options: { intraOpNumThreads: threads },
  });
  return {
    version: `transformers.js ${env.version}`,
    async generate({ prompt: { ids: prompt }, maxTokens }) {
      const ids: number[] = [];
      const tokenMs: number[] = [];
      const startedAt = performance.now();
      const streamer = new TextStreamer(tokenizer, {
        skip_prompt: true,
        callback_function: () => {},
        token_callback_function(tokens) {
          for (const token of tokens) {
            ids.push(Number(token));
            tokenMs.push(performance.now() - startedAt);
          }
        },
      });
      const dims = [1, prompt.length];
      await model.generate({
        inputs: new Tensor("int64", BigInt64Array.from(prompt, BigInt), dims),
        attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), dims),
        max_new_tokens: maxTokens,
        min_new_tokens: maxTokens,
        do_sample: false,
        streamer,
      });
      return { output: { ids }, promptTokens: prompt.length, tokenMs };
    },
  };
});
