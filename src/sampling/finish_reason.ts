/** Why an answer ended: an end token or stop string, or the token limit. */
export type FinishReason = "stop" | "length";
