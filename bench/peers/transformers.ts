/** transformers.js on the same folder: native onnxruntime in Bun and Deno. */
import { env, pipeline, TextStreamer } from "@huggingface/transformers";
import { basename, dirname } from "node:path";
import { answerTask, task } from "./peer.ts";

env.allowRemoteModels = false;
env.localModelPath = dirname(task.modelFolder);
const startedAt = performance.now();
const generator = await pipeline("text-generation", basename(task.modelFolder), {
  dtype: "q4",
  device: "cpu",
  session_options: { intraOpNumThreads: task.threads },
});
await answerTask(`transformers.js ${env.version}`, performance.now() - startedAt, async () => {
  const answer = { text: "", startedAt: performance.now(), tokenTimes: [] as number[] };
  const streamer = new TextStreamer(generator.tokenizer, {
    skip_prompt: true,
    skip_special_tokens: true,
    callback_function: (text: string) => void (answer.text += text),
    token_callback_function: () => void answer.tokenTimes.push(performance.now()),
  });
  const options = { max_new_tokens: task.maxTokens, min_new_tokens: task.maxTokens, do_sample: false, streamer };
  await generator(task.prompt, { ...options, add_special_tokens: false });
  return { ...answer, tokenTimes: answer.tokenTimes.slice(-task.maxTokens) };
});
