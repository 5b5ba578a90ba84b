/** llama.cpp, native, as node-llama-cpp ships it: built for this CPU's instructions, flash attention, batches of 512. */
import { getLlama, LlamaLogLevel, type Token } from "node-llama-cpp";
import { requireGguf, servePeer, timeTokens } from "./peer.ts";

await servePeer(async (task) => {
  const { threads } = task;
  const modelPath = requireGguf(task);
  const llama = await getLlama({ build: "never", gpu: false, maxThreads: threads, logLevel: LlamaLogLevel.error });
  const model = await llama.loadModel({ modelPath });
  const context = await model.createContext({ contextSize: 1024, batchSize: 512, flashAttention: true, threads });
  const sequence = context.getSequence();
  return {
    version: `llama.cpp ${llama.llamaCppRelease.release}`,
    async generate(request) {
      await sequence.clearHistory();
      const prompt = request.prompt.ids as readonly number[] as Token[];
      const tokens = sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true });
      const answer = await timeTokens(request, async () => {
        const { value } = await tokens.next();
        if (value === undefined) throw new Error("Cannot measure llama.cpp: its answer ended");
        return value;
      });
      await tokens.return();
      return answer;
    },
  };
});
