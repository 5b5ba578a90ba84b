import {
  InvalidRequestError,
  SessionBusyError,
  SessionGoneError,
  SessionNotFoundError,
  TurnMismatchError,
} from "../errors.ts";
import type { CapsuleContext } from "../session/capsule.ts";
import { rewindDelta, type RewindTarget } from "../session/rewind.ts";
import { DEFAULT_TENANT, type Session } from "../session/session.ts";
import type { KvState } from "../session/session_kv.ts";
import { type HeldSession, sessionName, type SessionStoreStats } from "../session/session_store.ts";
import { commonLength, type StoredMessage, type TranscriptDelta, type TurnRecord } from "../session/transcript.ts";
import type { GenerateRequest } from "./generate_request.ts";
import type { TurnHost } from "./open_turn.ts";
import { exportCapsule, importCapsule, type Imported, type ImportOptions } from "./session_capsules.ts";
import { planTurn, type TurnPlan } from "./plan_turn.ts";

/** A session as others see it. */
export interface SessionInfo {
  id: string;
  tenant: string;
  /** Committed turns. */
  turn: number;
  /** Length of the transcript. */
  tokens: number;
  state: KvState;
  /** Tokens whose KV is held, wherever. */
  cachedTokens: number;
  /** Bytes held in the backend, and outside it. */
  hotBytes: number;
  parkedBytes: number;
  /** Whether a turn is running. */
  busy: boolean;
  /** Milliseconds since 1970. */
  createdAt: number;
  /** Milliseconds since 1970; `undefined` while a turn runs. */
  expiresAt: number | undefined;
}

/** A session with all that it remembers. Copies, the caller's. */
export interface SessionDetails extends SessionInfo {
  ids: number[];
  messages: StoredMessage[];
  turns: TurnRecord[];
}

/** A session that came in a capsule. */
export type ImportedSession = SessionInfo & Omit<Imported, "session">;

/** Whose session is meant. */
export interface TenantOption {
  /** @default "default" */
  tenant?: string;
}

const EMPTY: TranscriptDelta = { keep: { ids: 0, messages: 0, turns: 0 }, ids: [], messages: [], turns: [] };

/**
 * What can be done with sessions between turns. Every method sees the sessions of one tenant only.
 *
 * A session that is not there is a {@linkcode SessionNotFoundError}, one that is not any more a
 * {@linkcode SessionGoneError}, one whose turn is running a {@linkcode SessionBusyError}.
 */
export class Sessions {
  readonly #host: TurnHost;
  readonly #capsules: CapsuleContext;

  constructor(host: TurnHost, capsules: CapsuleContext) {
    this.#host = host;
    this.#capsules = capsules;
  }

  /**
   * Makes an empty session.
   * @throws {SessionExistsError} when there is one of that id
   * @throws {SessionLimitError} when the tenant has as many as it may keep
   * @throws {StorageError} when the disk refuses
   */
  async create(options: TenantOption & { id?: string; ttlMs?: number } = {}): Promise<SessionInfo> {
    const held = await this.#make(options.id ?? crypto.randomUUID(), options.tenant, options.ttlMs);
    return await this.#within(held, (session) => this.#host.store.commit(session, EMPTY));
  }

  /** What a session is and where its KV is. */
  describe(id: string, { tenant }: TenantOption = {}): SessionInfo {
    return info(this.#host.store.get(sessionName(id, tenant)));
  }

  /** All that a session remembers, and where its KV is. */
  inspect(id: string, { tenant }: TenantOption = {}): SessionDetails {
    const session = this.#host.store.get(sessionName(id, tenant));
    const { ids, messages, turns } = structuredClone(session.transcript.snapshot());
    return { ...info(session), ids, messages, turns };
  }

  /** The tenant's sessions, most recently used first. */
  list({ tenant = DEFAULT_TENANT }: TenantOption = {}): SessionInfo[] {
    return this.#host.store.list(tenant).map(info);
  }

  /**
   * A new session that begins as this one. Its KV is shared where the backend can, else copied where there is room.
   * While a turn of this one runs, the new one has the turns before it, and no KV.
   * @param options.atTurn turns it takes over; all when absent
   * @throws {InvalidRequestError} when there is no such turn
   * @throws {SessionExistsError} when `newId` is taken
   * @throws {SessionLimitError} when the tenant has as many as it may keep
   */
  async fork(
    id: string,
    { tenant, atTurn, newId }: TenantOption & { atTurn?: number; newId?: string } = {},
  ): Promise<SessionInfo> {
    const { store, tiers } = this.#host;
    const parent = store.get(sessionName(id, tenant));
    const turns = atTurn ?? parent.turn;
    if (!(Number.isInteger(turns) && turns >= 0 && turns <= parent.turn)) {
      throw new InvalidRequestError(`Cannot fork at turn ${atTurn}: wanted 0 to ${parent.turn}`, "at_turn");
    }
    const snapshot = structuredClone(parent.transcript.snapshot(turns));
    const held = await this.#make(newId ?? crypto.randomUUID(), tenant, parent.ttlMs);
    return await this.#within(held, async (child) => {
      await store.commit(child, snapshot);
      const source = await this.#takeIdle(parent);
      if (!source) return;
      try {
        // The parent may have gone another way while the child was written.
        const shared = commonLength(source.session.kv.ids, snapshot.ids, (a, b) => a === b);
        await tiers.fork(source.session, child, shared);
      } finally {
        store.end(source);
      }
    });
  }

  /**
   * Takes a session back to the end of a turn, or to a token inside an answer.
   * @throws {InvalidRequestError} when there is no such turn or token
   * @throws {TurnMismatchError} when the session is not at `ifTurn`
   * @throws {StorageError} when the disk refuses; the session is as before
   */
  async rewind(id: string, options: RewindTarget & TenantOption & { ifTurn?: number }): Promise<SessionInfo> {
    const { store, encoder } = this.#host;
    const held = await store.take(sessionName(id, options.tenant));
    return await this.#within(held, async (session) => {
      if (options.ifTurn !== undefined && options.ifTurn !== session.turn) {
        throw new TurnMismatchError(id, session.turn, options.ifTurn);
      }
      await store.commit(session, rewindDelta(session.transcript, options, (ids) => encoder.tokenizer.decode(ids)));
      session.kv.truncate(session.transcript.ids.length);
    });
  }

  /**
   * A session as bytes, to be imported here or by another server of the same model. Sealed for its tenant where there
   * is a key.
   * @param options.kv take its KV along, if there is some
   */
  async export(id: string, { tenant, kv = false }: TenantOption & { kv?: boolean } = {}): Promise<Uint8Array> {
    const held = await this.#host.store.take(sessionName(id, tenant));
    try {
      return await exportCapsule(this.#host, held.session, this.#capsules, kv);
    } finally {
      this.#host.store.end(held);
    }
  }

  /** Largest capsule that `import` takes, in bytes. */
  get maxCapsuleBytes(): number {
    return this.#capsules.maxBytes;
  }

  /**
   * Makes a session of a capsule. Where this throws, every session is as before.
   * @throws {CapsuleError} when it is damaged, too large, of another format or model, or this server's key does not
   *   open it for the tenant
   * @throws {InvalidRequestError} when its id is none, and no other is given
   * @throws {SessionExistsError} when there is one of that id, unless it is to be replaced
   * @throws {SessionLimitError} when the tenant has as many as it may keep
   */
  async import(bytes: Uint8Array, options: ImportOptions = {}): Promise<ImportedSession> {
    const { session, ...rest } = await importCapsule(this.#host, bytes, this.#capsules, options);
    return { ...info(session), ...rest };
  }

  /** Moves a session's KV out of the backend: parked where that pays and fits, else dropped. */
  async park(id: string, { tenant }: TenantOption = {}): Promise<SessionInfo> {
    const held = await this.#host.store.take(sessionName(id, tenant));
    return await this.#within(held, (session) => this.#host.tiers.park(session));
  }

  /** Drops a session's KV, wherever it is. Its words stay. */
  async evict(id: string, { tenant }: TenantOption = {}): Promise<SessionInfo> {
    const held = await this.#host.store.take(sessionName(id, tenant));
    return await this.#within(held, async (session) => this.#host.tiers.drop(session));
  }

  /**
   * Forgets a session, on disk too. A running turn goes on and its memory goes when it ends.
   * @returns whether there was one
   */
  async delete(id: string, { tenant }: TenantOption = {}): Promise<boolean> {
    const name = sessionName(id, tenant);
    this.#host.encoder.encodedTexts.forget(name.tenant);
    return await this.#host.store.delete(name);
  }

  /**
   * What a request would reuse and cost, and whether it fits. Runs and changes nothing.
   * @throws what {@linkcode Engine.start} throws for the request's prompt and session
   */
  async plan(request: GenerateRequest): Promise<TurnPlan> {
    return await planTurn(this.#host, request);
  }

  /** Counts over the sessions of all tenants. */
  stats(): SessionStoreStats {
    return this.#host.store.stats();
  }

  async #make(id: string, tenant: string | undefined, ttlMs: number | undefined): Promise<HeldSession> {
    const name = sessionName(id, tenant);
    this.#host.store.make(name, ttlMs);
    return await this.#host.store.begin(name);
  }

  async #within(held: HeldSession, work: (session: Session) => Promise<void>): Promise<SessionInfo> {
    try {
      await work(held.session);
    } finally {
      this.#host.store.end(held);
    }
    return info(held.session);
  }

  /** Holds a session unless a turn of it is running, or it went meanwhile, or nothing came of its first turn. */
  async #takeIdle(session: Session): Promise<HeldSession | undefined> {
    const { store } = this.#host;
    if (store.peek(session.name!) !== session) return undefined;
    try {
      return await store.take(session.name!);
    } catch (error) {
      const kinds = [SessionBusyError, SessionGoneError, SessionNotFoundError];
      if (kinds.some((kind) => error instanceof kind)) return undefined;
      throw error;
    }
  }
}

function info({ name, turn, transcript, kv, lock, createdAt, expiresAt }: Session): SessionInfo {
  return {
    ...name!,
    turn,
    tokens: transcript.ids.length,
    state: kv.state,
    cachedTokens: kv.state === "cold" ? 0 : kv.ids.length,
    hotBytes: kv.hotBytes,
    parkedBytes: kv.parked?.byteLength ?? 0,
    busy: lock.busy,
    createdAt,
    expiresAt: lock.busy ? undefined : expiresAt,
  };
}
