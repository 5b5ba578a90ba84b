import { z } from "zod";
import { ModelFileError } from "../errors.ts";

/** The bytes of ordinary tokens, as the `decoder` of a `tokenizer.json` defines them. */
export interface TokenBytes {
  /** @param token as the vocabulary spells it */
  bytes(token: string): Uint8Array;
  /** Spaces that decoding takes off the front of a text: SentencePiece models begin every text with one. */
  leadingSpaces: number;
}

const step = z.object({
  type: z.string(),
  decoders: z.array(z.unknown()).optional(),
  pattern: z.object({ String: z.string() }).optional(),
  content: z.string().optional(),
  start: z.int().optional(),
});
type Step = z.infer<typeof step>;

/**
 * Reads a `decoder`: byte-level BPE (GPT-2, SmolLM, Llama 3) or SentencePiece with byte fallback (Llama 2, Phi-3).
 * https://huggingface.co/docs/tokenizers/components#decoders
 * @throws {ModelFileError} when it is of another kind
 */
export function tokenBytesOf(decoder: unknown): TokenBytes {
  const steps = flatten(decoder);
  const types = steps.map(({ type }) => type);
  if (types.includes("ByteLevel")) return { bytes: byteLevelBytes, leadingSpaces: 0 };
  if (types.includes("ByteFallback")) {
    const space = steps.find(({ type, content }) => type === "Replace" && content === " ")?.pattern?.String;
    return {
      bytes: (token) => byteFallbackBytes(token, space),
      leadingSpaces: steps.find(({ type, content }) => type === "Strip" && content === " ")?.start ?? 0,
    };
  }
  throw new ModelFileError(
    `Cannot use tokenizer.json: its decoder is ${types.join(" + ") || "missing"}, wanted ByteLevel or ByteFallback`,
  );
}

function flatten(decoder: unknown): Step[] {
  const parsed = step.safeParse(decoder);
  if (!parsed.success) return [];
  return parsed.data.decoders?.flatMap(flatten) ?? [parsed.data];
}

const utf8 = new TextEncoder();

/**
 * GPT-2 spells each byte as a visible character: printable Latin-1 as itself, the others from U+0100 on.
 * https://github.com/openai/gpt-2/blob/9b63575ef42771a015060c964af2c3da4cf7c8ab/src/encoder.py#L9
 */
const BYTE_OF_CHAR: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const visible = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(visible ? byte : next++), byte);
  }
  return map;
})();

function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of token) {
    const byte = BYTE_OF_CHAR.get(char);
    if (byte === undefined) return utf8.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

function byteFallbackBytes(token: string, space: string | undefined): Uint8Array {
  const byte = /^<0x([0-9A-F]{2})>$/.exec(token)?.[1];
  if (byte !== undefined) return Uint8Array.of(Number.parseInt(byte, 16));
  return utf8.encode(space ? token.replaceAll(space, " ") : token);
}
