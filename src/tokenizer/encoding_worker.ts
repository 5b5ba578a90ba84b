/** The encoding thread's program: texts to ids, one request after the other. Whoever started it sees to the time. */
import { parentPort, workerData } from "../host/threads.ts";
import type { EncodeReply, EncodeRequest, EncodingData } from "./encoding_protocol.ts";
import { Tokenizer } from "./tokenizer.ts";

const { tokenizerJson, tokenizerConfig } = workerData as EncodingData;
const tokenizer = Tokenizer.fromJson(JSON.parse(tokenizerJson), JSON.parse(tokenizerConfig));

function encode(texts: EncodeRequest): EncodeReply {
  try {
    return {
      type: "ids",
      ids: texts.map(({ text, continuesText }) => Int32Array.from(tokenizer.encode(text, { continuesText }))),
    };
  } catch (error) {
    return { type: "failed", message: error instanceof Error ? error.message : String(error) };
  }
}

const reply = (message: EncodeReply) => {
  parentPort!.postMessage(message, message.type === "ids" ? message.ids.map(({ buffer }) => buffer) : []);
};
parentPort!.on("message", (texts: EncodeRequest) => reply(encode(texts)));
reply({ type: "ready" });
