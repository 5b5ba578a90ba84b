import { createEngine } from "../engine/create_engine.ts";
import {
  compareDecoding,
  completeGreedily,
  forwardPass,
  showArchitecture,
  showAttention,
  timeKvCache,
} from "./walk.ts";

const print = (line: string) => console.log(line);
const title = (text: string) => print(`\n== ${text}\n`);

await using engine = await createEngine({ model: process.env.MODEL || undefined });
print(`${engine.model.id} on ${engine.backend.info.name} (${engine.backend.info.detail})`);
title("(a) What the model is made of");
showArchitecture(engine, print);
title("(b) Greedy completion, 50 tokens");
await completeGreedily(engine, print);
title("(c) One forward pass");
await forwardPass(engine, print);
title("(c) The inside of attention");
await showAttention(engine, print);
title("(d) Greedy and sampled decoding");
await compareDecoding(engine, print);
title("(e) Generation with and without the KV cache");
await timeKvCache(engine, print);
