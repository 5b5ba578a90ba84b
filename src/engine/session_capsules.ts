import { BackendUnavailableError, InvalidRequestError, OutOfMemoryError, SessionExistsError } from "../errors.ts";
import { slices } from "../kv/kv_parts.ts";
import { type CapsuleContext, type CapsuleKv, type KvRefusal, makeCapsule, openCapsule } from "../session/capsule.ts";
import type { Session } from "../session/session.ts";
import { isSessionId, WANTED_SESSION_ID } from "../session/session_id.ts";
import { type HeldSession, sessionName } from "../session/session_store.ts";
import type { TurnHost } from "./open_turn.ts";

/** Options of {@linkcode importCapsule}. */
export interface ImportOptions {
  /** @default "default" */
  tenant?: string;
  /** @default the id it was exported under */
  id?: string;
  /** Replace a session of that id instead of refusing. @default false */
  replace?: boolean;
}

/** What came in with a capsule. */
export interface Imported {
  session: Session;
  /** Tokens whose KV was taken: the next turn's `cachedTokens`. */
  kvTokens: number;
  /** Why it was not, if there was some. */
  kvRefused?: KvRefusal;
}

/**
 * A held session as a capsule.
 * @param kv take its KV along, if there is some
 */
export async function exportCapsule(
  { tiers }: TurnHost,
  session: Session,
  context: CapsuleContext,
  kv: boolean,
): Promise<Uint8Array> {
  const attached = kv ? await tiers.export(session) : undefined;
  return await makeCapsule(session.name!, session.transcript.snapshot(), attached, context);
}

/**
 * Makes a session of a capsule. All that can be refused is refused before anything changes.
 * @throws {CapsuleError} as `openCapsule`
 * @throws {InvalidRequestError} when the capsule's id is none, and no other is given
 * @throws {SessionExistsError} when there is one of that id, unless it is to be replaced
 * @throws {SessionBusyError} when a turn of the one to replace is running
 * @throws {StorageError} when the disk refuses
 */
export async function importCapsule(
  host: TurnHost,
  bytes: Uint8Array,
  context: CapsuleContext,
  { tenant, id, replace = false }: ImportOptions,
): Promise<Imported> {
  const { store, tiers } = host;
  const opened = await openCapsule(bytes, sessionName("", tenant).tenant, context);
  if (id === undefined && !isSessionId(opened.session)) {
    const named = JSON.stringify(opened.session);
    throw new InvalidRequestError(`Cannot import the capsule as session ${named}: ${WANTED_SESSION_ID}`, "id");
  }
  const name = sessionName(id ?? opened.session, tenant);
  if (!replace && store.peek(name)) throw new SessionExistsError(name.id);
  const held = await store.begin(name);
  try {
    const { session } = held;
    // One that waited for this place may have made it meanwhile.
    if (!replace && session.established) throw new SessionExistsError(name.id);
    await store.commit(session, opened.transcript.snapshot());
    tiers.drop(session);
    const kvRefused = opened.kv ? await takeKv(host, held, opened.kv) : opened.kvRefused;
    return { session, kvTokens: session.kv.ids.length, ...(kvRefused && { kvRefused }) };
  } finally {
    store.end(held);
  }
}

async function takeKv(
  { tiers, backend }: TurnHost,
  { session }: HeldSession,
  { data, tokens }: CapsuleKv,
): Promise<KvRefusal | undefined> {
  try {
    await tiers.reserve(session, backend.kvBytes(tokens));
    session.kv.cache = await tiers.withRoom(() => backend.importKv(slices(data), tokens));
  } catch (error) {
    if (error instanceof RangeError) return "invalid";
    if (error instanceof OutOfMemoryError || error instanceof BackendUnavailableError) return "no_room";
    throw error;
  }
  for (const id of session.transcript.ids.slice(0, tokens)) session.kv.ids.push(id);
  return undefined;
}
