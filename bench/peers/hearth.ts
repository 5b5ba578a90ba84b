/** Our engine on the backend named by the first argument. Drafts are off: everybody's tokens come one a pass. */
import { createEngine } from "../../src/engine/create_engine.ts";
import type { BackendChoice } from "../../src/backend/select_backend.ts";
import { servePeer, timeTokens } from "./peer.ts";

await servePeer(async ({ modelFolder, threads }) => {
  const backend = process.argv[2] as BackendChoice;
  const engine = await createEngine({ model: modelFolder, backend, threads, promptLookup: "off" });
  return {
    version: engine.backend.info.variant,
    async generate(request) {
      const { prompt: { ids }, maxTokens } = request;
      const events = engine.generate({ prompt: { ids }, maxTokens, ignoreEos: true });
      const answer = await timeTokens(request, async () => {
        const { value } = await events.next();
        if (value?.type !== "token") {
          throw new Error(`Cannot measure hearth: its answer ended before ${maxTokens} tokens`);
        }
        return value.id;
      });
      for await (const _ of events);
      return answer;
    },
    close: () => engine[Symbol.asyncDispose](),
  };
});
