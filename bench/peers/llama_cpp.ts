/** llama.cpp, native, on the GGUF that the bundled model was made from. */
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { answerTask, task } from "./peer.ts";

const startedAt = performance.now();
const llama = await getLlama({ build: "never", gpu: false, maxThreads: task.threads, logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath: task.gguf! });
const context = await model.createContext({ contextSize: 1024, threads: task.threads });
const sequence = context.getSequence();
const prompt = model.tokenize(task.prompt, true);
await answerTask(`llama.cpp ${llama.llamaCppRelease.release}`, performance.now() - startedAt, async () => {
  await sequence.clearHistory();
  const answer = { startedAt: performance.now(), tokenTimes: [] as number[] };
  const ids = [];
  for await (const id of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    answer.tokenTimes.push(performance.now());
    ids.push(id);
    if (ids.length === task.maxTokens) break;
  }
  return { ...answer, text: model.detokenize(ids) };
});
