/** onnxruntime-web as it comes: the same file, its int4 weights, KV in and out of JavaScript with every call. */
import { readModelFolder } from "../../src/model/model_folder.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import { PlainOrt } from "../plain_ort.ts";
import { servePeer, timeTokens } from "./peer.ts";

await servePeer(async ({ modelFolder, threads }) => {
  const plain = await PlainOrt.start(await readModelFolder(modelFolder), threads);
  return {
    version: "onnxruntime-web 1.30.0, int4",
    async generate(request) {
      await plain.fill(0);
      let next = request.prompt.ids;
      return await timeTokens(request, async () => {
        const id = argmax((await plain.forward(next, true)).logits);
        next = [id];
        return id;
      });
    },
  };
});
