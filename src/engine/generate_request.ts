import type { BackendInfo } from "../backend/backend.ts";
import type { FinishReason } from "../sampling/finish_reason.ts";
import type { SamplingParams } from "../sampling/sampling_params.ts";
import type { ChatMessage } from "../tokenizer/chat_template.ts";
import type { OnBusy } from "../session/turn_lock.ts";
import type { CacheReport } from "./cache_report.ts";
import type { DraftCounts } from "./sequence.ts";
import type { Truncation } from "./truncate_messages.ts";

/** Tokens generated when a request does not say, as far as the context allows. */
export const DEFAULT_MAX_TOKENS = 512;

/** Stop strings a request may carry. OpenAI allows 4; nothing here depends on so few. */
export const MAX_STOP_STRINGS = 16;

/** What to continue: exactly one of the three. */
export type Prompt =
  /** A conversation, or in append mode its new messages, rendered by the model's chat template. Control tokens spelled in it stay text. */
  | { messages: readonly ChatMessage[] }
  /** Text to continue as it stands. Control tokens spelled in it stay text. */
  | { text: string }
  /** Token ids to continue as they stand. */
  | { ids: readonly number[] };

/** One call for tokens. */
export interface GenerateRequest {
  prompt: Prompt;
  /** Most tokens to generate; 0 only fills the cache. @default DEFAULT_MAX_TOKENS, less where the context ends */
  maxTokens?: number;
  /** How to choose tokens. @default greedy */
  sampling?: Partial<SamplingParams>;
  /** Text that ends the answer; it is not part of it. @default [] */
  stop?: readonly string[];
  /**
   * When messages and `maxTokens` do not fit the context: refuse, or leave out whole turns, oldest first, and say so.
   * System messages stay. Not in a session's append mode, which has the words nowhere else.
   * @default "disabled"
   */
  truncation?: "disabled" | "auto";
  /** Go on past the model's end tokens, up to `maxTokens`. @default false */
  ignoreEos?: boolean;
  /** The conversation whose KV to use and keep. @default none: nothing outlives the call */
  session?: SessionRef;
  /** `false` recomputes the whole sequence for every token: to see what the KV cache is for. @default true */
  useCache?: boolean;
  /** `"off"` neither reads nor keeps KV of earlier calls. @default "on" */
  cache?: "on" | "off";
  /** Leave control tokens out of the answer's text. @default true */
  skipSpecialTokens?: boolean;
}

/** Names a session, and says how the turn goes with it. */
export interface SessionRef {
  id: string;
  /** Whose session: another tenant's is not there. @default "default" */
  tenant?: string;
  /** Lifetime after the turn, and after each later change, in milliseconds. @default the engine's */
  ttlMs?: number;
  /**
   * `"replay"`: the prompt is the whole conversation; what the session has already is reused, what differs replaces it.
   * `"append"`: the prompt is what is new, and the session's transcript comes before it.
   * `"regenerate"`: the last turn is answered again and replaced; the prompt is empty.
   * @default "replay"
   */
  mode?: "replay" | "append" | "regenerate";
  /** Turns the session has to have, else nothing happens; 0 for a new one. @default any */
  ifTurn?: number;
  /** When another turn of the session is running: fail, wait for it, or end it. @default "reject" */
  onBusy?: OnBusy;
  /** When the turn is cancelled or fails: leave the session as it was, or keep what was sampled. @default "rollback" */
  onAbort?: "rollback" | "keep_partial";
}

export type { FinishReason, OnBusy };

/** Token counts of one answer. */
export interface Usage {
  promptTokens: number;
  /** Prompt tokens whose KV was there already, and the tenant's: what came from a public prompt is not counted. */
  cachedTokens: number;
  completionTokens: number;
  /**
   * Tokens that were drafted out of the prompt and evaluated ahead of time: those that the answer then had, counted
   * in `completionTokens`, and those that it had not.
   */
  drafts: DraftCounts;
  /** What the session's cache did, and why not more. */
  cache: CacheReport;
  /** What of the conversation was left out, if something was. */
  truncated?: Truncation;
}

/** Where the time of one answer went, in milliseconds. */
export interface Timings {
  /** From the call to the first token. */
  ttftMs: number;
  /** Waiting for the session and for memory, before the call was admitted. */
  queueMs: number;
  /** Bringing parked KV back before the prefill; 0 where there was none. */
  restoreMs: number;
  /** Forward passes over the prompt, waiting for other requests included. */
  prefillMs: number;
  /** From the first token to the end. */
  decodeMs: number;
}

/** A token as soon as it is sampled. */
export interface TokenEvent {
  type: "token";
  id: number;
  /** Text that is now complete; `""` while a character or a possible stop string is unfinished. */
  text: string;
  /** Natural logarithm of the probability that the token was drawn with. */
  logprob: number;
}

/** The answer goes on elsewhere: what it ran on is gone, a GPU for instance. No token is lost or said twice. */
export interface BackendEvent {
  type: "backend";
  text: "";
  /** What it goes on with. */
  name: BackendInfo["name"];
  reason: string;
}

/** The last event of an answer. */
export interface EndEvent {
  type: "end";
  /** Text that was held back until now. */
  text: string;
  finishReason: FinishReason;
  usage: Usage;
  timings: Timings;
}

export type GenerateEvent = TokenEvent | BackendEvent | EndEvent;
