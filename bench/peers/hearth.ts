import { createEngine } from "../../src/engine/create_engine.ts";
import type { BackendChoice } from "../../src/backend/select_backend.ts";
import { answerTask, task } from "./peer.ts";

/** The backend to measure. */
const backend = (process.argv[2] ?? "auto") as BackendChoice;
const startedAt = performance.now();
const engine = await createEngine({ backend, threads: task.threads });
const ids = engine.tokenizer.encode(task.prompt, { specialTokens: "parse" });
await answerTask(engine.backend.info.variant, performance.now() - startedAt, async () => {
  const answer = { text: "", startedAt: performance.now(), tokenTimes: [] as number[] };
  for await (const event of engine.generate({ prompt: { ids }, maxTokens: task.maxTokens, ignoreEos: true })) {
    answer.text += event.text;
    if (event.type === "token") answer.tokenTimes.push(performance.now());
  }
  return answer;
});
