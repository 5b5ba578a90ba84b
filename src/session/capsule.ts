import { CapsuleError } from "../errors.ts";
import { sha256 } from "../model/sha256.ts";
import {
  BLOCK_BYTES,
  type CapsuleBlock,
  type CapsuleHeader,
  corrupt,
  fromHex,
  joinBytes,
  joinCapsule,
  parseCapsule,
  type ParsedCapsule,
  toHex,
} from "./capsule_format.ts";
import { type CapsuleKey, IV_BYTES } from "./capsule_key.ts";
import type { SessionName } from "./session.ts";
import { deltaSchema, identityMismatch, type ModelIdentity } from "./stored_schema.ts";
import { Transcript, type TranscriptDelta } from "./transcript.ts";

/** Where a capsule is made or opened. */
export interface CapsuleContext {
  model: ModelIdentity;
  /** Arithmetic of the backend. */
  variant: string;
  vocabSize: number;
  contextLength: number;
  /** Seals what is made here; KV is only taken from what it opens. */
  key?: CapsuleKey;
  /** Largest capsule to open, in bytes. */
  maxBytes: number;
}

/** KV in a capsule. */
export interface CapsuleKv {
  tokens: number;
  /** As `Backend.exportKv` gave it. */
  data: Uint8Array;
}

/** Why KV of a capsule was not taken: the ids are evaluated then. */
export type KvRefusal = "not_authenticated" | "other_variant" | "no_room" | "invalid";

/** A session out of a capsule. */
export interface OpenedCapsule {
  /** Its id where it was exported. */
  session: string;
  transcript: Transcript;
  kv?: CapsuleKv;
  kvRefused?: KvRefusal;
}

/** A session as bytes, to be taken elsewhere. Sealed for its tenant if there is a key. */
export async function makeCapsule(
  { tenant, id }: SessionName,
  transcript: TranscriptDelta,
  kv: CapsuleKv | undefined,
  { model, variant, key }: CapsuleContext,
): Promise<Uint8Array> {
  const contents = [
    { kind: "transcript" as const, data: new TextEncoder().encode(JSON.stringify(transcript)) },
    ...cut(kv?.data).map((data) => ({ kind: "kv" as const, data })),
  ];
  const header: CapsuleHeader = {
    capsule: crypto.randomUUID(),
    session: id,
    createdAt: Date.now(),
    model,
    variant,
    tokens: transcript.ids.length,
    kvTokens: kv?.tokens ?? 0,
    sealed: key !== undefined,
    blocks: [],
  };
  const blocks: Uint8Array[] = [];
  for (const [index, { kind, data }] of contents.entries()) {
    const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
    const bytes = key ? await key.seal(data, iv, boundTo(header, tenant, kind, index, contents.length)) : data;
    blocks.push(bytes);
    header.blocks.push({
      kind,
      byteLength: bytes.length,
      sha256: await sha256(bytes),
      ...(key && { iv: toHex(iv) }),
    });
  }
  return await joinCapsule(header, blocks);
}

/**
 * Opens a capsule for a tenant.
 * @throws {CapsuleError} when it is damaged, too large, of another format or model, or sealed by another key or for
 *   another tenant
 */
export async function openCapsule(bytes: Uint8Array, tenant: string, context: CapsuleContext): Promise<OpenedCapsule> {
  if (bytes.length > context.maxBytes) throw tooLarge(`${bytes.length} bytes`, `${context.maxBytes}`);
  const parsed = await parseCapsule(bytes);
  const { header } = parsed;
  const other = identityMismatch(header.model, context.model);
  if (other) {
    throw new CapsuleError(
      "snapshot_model_mismatch",
      `Cannot import the capsule: it is of "${header.model.id}" with another ${other} than "${context.model.id}" here`,
    );
  }
  if (header.tokens > context.contextLength) throw tooLarge(`${header.tokens} tokens`, `${context.contextLength}`);
  const json = await contents(parsed, "transcript", tenant, context.key);
  if (!json) {
    throw corrupt(
      context.key
        ? "this server's key does not open it for this tenant"
        : "it is sealed, and this server has no key to open it",
    );
  }
  const opened: OpenedCapsule = { session: header.session, transcript: toTranscript(json, header, context) };
  if (header.kvTokens === 0) return opened;
  if (header.kvTokens > header.tokens) throw corrupt(`it has KV of ${header.kvTokens} tokens, of ${header.tokens}`);
  // Whoever can make KV can make the model say anything, so only what was sealed here is believed.
  const data = header.sealed ? await contents(parsed, "kv", tenant, context.key) : undefined;
  if (!data) return { ...opened, kvRefused: "not_authenticated" };
  if (header.variant !== context.variant) return { ...opened, kvRefused: "other_variant" };
  return { ...opened, kv: { tokens: header.kvTokens, data } };
}

/** The blocks of one kind, opened and joined; `undefined` when the key does not open one. */
async function contents(
  { header, blocks }: ParsedCapsule,
  kind: CapsuleBlock["kind"],
  tenant: string,
  key: CapsuleKey | undefined,
): Promise<Uint8Array | undefined> {
  const parts: Uint8Array[] = [];
  for (const [index, { block, bytes }] of blocks.entries()) {
    if (block.kind !== kind) continue;
    if (!header.sealed) {
      parts.push(bytes);
      continue;
    }
    const bound = boundTo(header, tenant, kind, index, blocks.length);
    const data = block.iv === undefined ? undefined : await key?.open(bytes, fromHex(block.iv), bound);
    if (!data) return undefined;
    parts.push(data);
  }
  return await joinBytes(parts);
}

/** What a block is bound to: it opens for nothing else, and in no other place. */
function boundTo(header: CapsuleHeader, tenant: string, kind: string, index: number, blocks: number): Uint8Array {
  const { capsule, session, createdAt, model, variant, tokens, kvTokens } = header;
  const { model: weights, tokenizer, template } = model;
  const bound = [tenant, session, weights, tokenizer, template, variant];
  return new TextEncoder().encode(JSON.stringify([bound, capsule, createdAt, tokens, kvTokens, kind, index, blocks]));
}

function toTranscript(json: Uint8Array, { tokens }: CapsuleHeader, { vocabSize }: CapsuleContext): Transcript {
  const transcript = new Transcript();
  try {
    transcript.apply(deltaSchema.parse(JSON.parse(new TextDecoder().decode(json))));
  } catch (cause) {
    throw corrupt("its transcript is none", cause);
  }
  const foreign = transcript.ids.find((id) => id >= vocabSize);
  if (foreign !== undefined) throw corrupt(`it has token id ${foreign}, the vocabulary ends at ${vocabSize - 1}`);
  if (transcript.ids.length !== tokens) throw corrupt(`it has ${transcript.ids.length} tokens, its header ${tokens}`);
  return transcript;
}

function cut(data: Uint8Array | undefined): Uint8Array[] {
  const blocks: Uint8Array[] = [];
  for (let at = 0; data && at < data.length; at += BLOCK_BYTES) blocks.push(data.subarray(at, at + BLOCK_BYTES));
  return blocks;
}

const tooLarge = (what: string, limit: string) =>
  new CapsuleError("snapshot_too_large", `Cannot import the capsule: ${what}, wanted at most ${limit}`);
