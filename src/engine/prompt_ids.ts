import { ContextOverflowError, InvalidRequestError } from "../errors.ts";
import { DEFAULT_TENANT } from "../session/session.ts";
import { sameWords, type StoredMessage, type Transcript } from "../session/transcript.ts";
import type { BackgroundTokenizer } from "../tokenizer/background_tokenizer.ts";
import type { ChatMessage, ChatTemplate } from "../tokenizer/chat_template.ts";
import type { EncodedTexts } from "../tokenizer/encoded_texts.ts";
import type { TextPart } from "../tokenizer/encoding_protocol.ts";
import type { Tokenizer } from "../tokenizer/tokenizer.ts";
import { DEFAULT_MAX_TOKENS, type GenerateRequest } from "./generate_request.ts";
import { type Truncation, withoutOldestTurns } from "./truncate_messages.ts";

/** What turns text into ids. */
export interface PromptEncoder {
  readonly tokenizer: Tokenizer;
  /** The same, for texts that may be long. */
  readonly texts: BackgroundTokenizer;
  /** @throws {ChatTemplateError} when the model has none */
  readonly chatTemplate: () => ChatTemplate;
  /** What conversations said before. */
  readonly encodedTexts: EncodedTexts;
  readonly vocabSize: number;
  readonly contextLength: number;
}

/** A prompt as it will be evaluated. */
export interface PreparedPrompt {
  ids: readonly number[];
  /** The whole conversation, with the places of answers that keep their ids; empty where it is not messages. */
  messages: readonly StoredMessage[];
  /** Tokens the answer may have. */
  maxTokens: number;
  /** What was left out to make it fit, if something was. */
  truncated?: Truncation;
}

/**
 * The ids of a request's prompt, with what its mode takes from the transcript. An answer of the session keeps the ids it
 * was sampled with, which are not always those its text would be cut into.
 * @param signal nobody waits for them any more
 * @throws {InvalidRequestError} when the prompt is empty, of the wrong kind for the session, or has foreign ids
 * @throws {ContextOverflowError} when prompt and `maxTokens` do not fit the context, truncated or not
 * @throws what {@linkcode ChatTemplate.encode} and {@linkcode BackgroundTokenizer.encode} throw
 */
export async function preparePrompt(
  request: GenerateRequest,
  transcript: Transcript,
  encoder: PromptEncoder,
  signal?: AbortSignal,
): Promise<PreparedPrompt> {
  const { ids, messages, truncated } = await encodeToFit(request, transcript, encoder, signal);
  if (ids.length === 0) throw new InvalidRequestError("Cannot continue an empty prompt: send some text", "prompt");
  const { vocabSize, contextLength } = encoder;
  const foreign = ids.find((id) => !(Number.isInteger(id) && id >= 0 && id < vocabSize));
  if (foreign !== undefined) {
    throw new InvalidRequestError(
      `Cannot use token id ${foreign}: the vocabulary has 0 to ${vocabSize - 1}`,
      "prompt",
    );
  }
  const { maxTokens } = request;
  if (!fits(ids, request, encoder)) {
    throw new ContextOverflowError({ promptTokens: ids.length, maxTokens, contextLength });
  }
  return {
    ids,
    messages,
    maxTokens: maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, contextLength - ids.length),
    ...(truncated && { truncated }),
  };
}

type Encoded = Pick<PreparedPrompt, "ids" | "messages">;

const fits = (ids: readonly number[], { maxTokens }: GenerateRequest, { contextLength }: PromptEncoder) =>
  ids.length + Math.max(maxTokens ?? 1, 0) <= contextLength;

async function encodeToFit(
  request: GenerateRequest,
  transcript: Transcript,
  encoder: PromptEncoder,
  signal: AbortSignal | undefined,
): Promise<Encoded & Pick<PreparedPrompt, "truncated">> {
  const idsOf = (request: GenerateRequest) => encode(request, transcript, encoder, signal);
  const whole = await idsOf(request);
  const { prompt, truncation } = request;
  if (truncation !== "auto" || !("messages" in prompt) || fits(whole.ids, request, encoder)) return whole;
  // An answer that has a token of room says nothing.
  const maxTokens = request.maxTokens ?? Math.min(DEFAULT_MAX_TOKENS, encoder.contextLength >> 2);
  const shorter = (messages: readonly ChatMessage[]) => ({ ...request, maxTokens, prompt: { messages } });
  const { messages, turns } = await withoutOldestTurns(
    prompt.messages,
    async (messages) => fits((await idsOf(shorter(messages))).ids, shorter(messages), encoder),
  );
  if (turns === 0) return whole;
  const kept = await idsOf(shorter(messages));
  const tokens = whole.ids.length - kept.ids.length;
  return { ...kept, truncated: { turns, messages: prompt.messages.length - messages.length, tokens } };
}

async function encode(
  { prompt, session }: GenerateRequest,
  transcript: Transcript,
  encoder: PromptEncoder,
  signal: AbortSignal | undefined,
): Promise<Encoded> {
  const mode = session?.mode ?? "replay";
  if (mode === "regenerate") return withoutLastAnswer(prompt, transcript);
  if (mode === "append") requireSameKind(prompt, transcript);
  if ("messages" in prompt) {
    const before = mode === "append" ? transcript.messages : [];
    const owner = session && (session.tenant ?? DEFAULT_TENANT);
    return await encodeMessages([...before, ...prompt.messages], transcript, encoder, { owner, signal });
  }
  const before = mode === "append" ? [...transcript.ids] : [];
  if ("ids" in prompt) return { ids: [...before, ...prompt.ids], messages: [] };
  const bos = encoder.tokenizer.encode("", { addBos: before.length === 0 });
  const [ids] = await encoder.texts.encode([{ text: prompt.text, continuesText: false }], signal);
  return { ids: [...before, ...bos, ...ids!], messages: [] };
}

async function encodeMessages(
  messages: readonly ChatMessage[],
  transcript: Transcript,
  { texts, chatTemplate, encodedTexts }: PromptEncoder,
  { owner, signal }: { owner: string | undefined; signal: AbortSignal | undefined },
): Promise<Encoded> {
  const stored: StoredMessage[] = messages.map(({ role, content }) => ({ role, content }));
  const encode = (parts: readonly TextPart[]) => texts.encode(parts, signal);
  const ids = await chatTemplate().encode(messages, {
    signal,
    encodeTexts: (parts) => owner === undefined ? encode(parts) : encodedTexts.ids(owner, parts, encode),
    replyIds: sampledIds(messages, transcript),
    onReply: (index, from, to) => stored[index]!.span = [from, to],
  });
  return { ids, messages: stored };
}

/** Ids of the answers that come back word for word, by message index: the n-th answer is compared with the n-th. */
function sampledIds(messages: readonly ChatMessage[], { messages: before, ids }: Transcript) {
  const answers = before.filter(isAnswer);
  const known = new Map<number, readonly number[]>();
  let ordinal = 0;
  messages.forEach((message, index) => {
    if (!isAnswer(message)) return;
    const stored = answers[ordinal++];
    if (stored?.span && sameWords(stored, message)) known.set(index, ids.slice(...stored.span));
  });
  return known;
}

const isAnswer = (message: ChatMessage) => message.role === "assistant";

function withoutLastAnswer(prompt: GenerateRequest["prompt"], transcript: Transcript): Encoded {
  if (sizeOf(prompt) > 0) {
    throw new InvalidRequestError("Cannot regenerate with a prompt: wanted none, the last turn's is taken", "prompt");
  }
  const last = transcript.turns.at(-1);
  if (!last) throw new InvalidRequestError("Cannot regenerate: the session has no turn", "session.mode");
  return {
    ids: transcript.ids.slice(0, last.replyStart),
    messages: transcript.messages.slice(0, Math.max(0, last.messagesEnd - 1)),
  };
}

function requireSameKind(prompt: GenerateRequest["prompt"], { kind }: Transcript): void {
  if (sizeOf(prompt) === 0) throw new InvalidRequestError("Cannot append nothing: send what is new", "prompt");
  const sent = "messages" in prompt ? "messages" : "ids";
  if (kind === undefined || kind === sent) return;
  const what = kind === "messages" ? "messages" : "text or ids";
  throw new InvalidRequestError(`Cannot append ${sent} to this session: it is made of ${what}`, "prompt");
}

function sizeOf(prompt: GenerateRequest["prompt"]): number {
  if ("messages" in prompt) return prompt.messages.length;
  return "ids" in prompt ? prompt.ids.length : prompt.text.length;
}
