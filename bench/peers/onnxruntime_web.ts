/** onnxruntime-web as it comes: the same file, its int4 weights, KV in and out of JavaScript with every call. */
import { readModelFolder } from "../../src/model/model_folder.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { PlainOrt } from "../plain_ort.ts";
import { answerTask, task } from "./peer.ts";

const startedAt = performance.now();
const model = await readModelFolder(task.modelFolder);
const tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
const plain = await PlainOrt.start(model, task.threads);
const prompt = tokenizer.encode(task.prompt, { specialTokens: "parse" });
await answerTask("onnxruntime-web 1.30.0, int4", performance.now() - startedAt, async () => {
  await plain.fill(0);
  const answer = { text: "", startedAt: performance.now(), tokenTimes: [] as number[] };
  const ids: number[] = [];
  let next = prompt;
  while (ids.length < task.maxTokens) {
    const id = argmax((await plain.forward(next, true)).logits);
    answer.tokenTimes.push(performance.now());
    ids.push(id);
    next = [id];
  }
  return { ...answer, text: tokenizer.decode(ids) };
});
