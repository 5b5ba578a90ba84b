/** A text without control tokens. */
export interface TextPart {
  text: string;
  /** It goes on another: no space is put before it by models that do so with the first only. */
  continuesText: boolean;
}

/** What the encoding thread starts with. */
export interface EncodingData {
  /** JSON, because text is copied faster than what it means. */
  tokenizerJson: string;
  tokenizerConfig: string;
}

/** What it is asked. */
export type EncodeRequest = readonly TextPart[];

/** What it says: once that it listens, then an answer to each request, in their order. */
export type EncodeReply =
  | { type: "ready" }
  /** Token ids of each text. */
  | { type: "ids"; ids: Int32Array<ArrayBuffer>[] }
  /** The tokenizer threw. */
  | { type: "failed"; message: string };
