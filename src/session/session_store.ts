import { LRUCache } from "lru-cache";
import {
  type GoneReason,
  SessionExistsError,
  SessionGoneError,
  SessionLimitError,
  SessionNotFoundError,
} from "../errors.ts";
import { sum } from "./kv_members.ts";
import type { KvTiers, KvTiersStats } from "./kv_tiers.ts";
import { DEFAULT_TENANT, Session, type SessionName } from "./session.ts";
import type { ParkedKv } from "./session_kv.ts";
import type { SessionJournal } from "./session_journal.ts";
import { isOver, TenantSessions } from "./tenant_sessions.ts";
import type { TranscriptDelta } from "./transcript.ts";
import type { AcquireOptions, Hold } from "./turn_lock.ts";

/** Options of {@linkcode SessionStore}. */
export interface SessionStoreOptions {
  /**
   * How long a session lives after its last change, in milliseconds. A use that changes nothing, such as an export or a
   * turn that fails, does not prolong it: nothing of it is on disk, and a restart has to find what was promised.
   * @default 1_800_000 (half an hour), with a journal 604_800_000 (a week)
   */
  ttlMs?: number;
  /**
   * Sessions of one tenant, so that none pushes out another's. Beyond it its least recently used one is forgotten; with
   * a journal, which forgets nothing to make room, a new one is refused. @default 10_000, with a journal 100_000
   */
  maxSessions?: number;
  /** Where transcripts are kept. @default memory only */
  journal?: SessionJournal;
}

/** What the store holds right now. */
export interface SessionStoreStats extends KvTiersStats {
  sessions: number;
}

/** A session that is held for a turn or a verb. */
export interface HeldSession {
  session: Session;
  hold: Hold;
}

/** Reasons remembered for sessions that are gone. */
const MAX_GONE = 10_000;

/**
 * Sessions by tenant and id, each idle or with a running turn.
 * Transcripts change through the store, so that what is in memory and what is on disk agree.
 */
export class SessionStore implements Disposable {
  readonly ttlMs: number;
  readonly #tiers: KvTiers;
  readonly #journal: SessionJournal | undefined;
  readonly #maxSessions: number;
  readonly #tenants = new Map<string, TenantSessions>();
  readonly #gone = new LRUCache<string, GoneReason>({ max: MAX_GONE });

  constructor(tiers: KvTiers, options: SessionStoreOptions = {}) {
    this.#tiers = tiers;
    this.#journal = options.journal;
    this.ttlMs = options.ttlMs ?? (options.journal ? 7 * 24 * 3600_000 : 30 * 60_000);
    this.#maxSessions = options.maxSessions ?? (options.journal ? 100_000 : 10_000);
  }

  /** Puts a session back that was kept. @param lastAt its last change, in milliseconds since 1970 */
  recover(session: Session, lastAt: number, parked?: ParkedKv): void {
    session.established = true;
    session.expiresAt = lastAt + (session.ttlMs ?? this.ttlMs);
    if (isOver(session)) return this.#lose(session, "expired");
    if (parked) this.#tiers.adopt(session, parked);
    this.#of(session.name!).rest(session);
  }

  /** Key of a session: the journal's, if there is one. */
  key(name: SessionName): string {
    return this.#journal?.key(name) ?? JSON.stringify([name.tenant, name.id]);
  }

  /** The session, if it is there; does not count as a use. */
  peek(name: SessionName): Session | undefined {
    return this.#tenants.get(name.tenant)?.find(this.key(name));
  }

  /**
   * The session.
   * @throws {SessionGoneError} when it was there once
   * @throws {SessionNotFoundError} when it never was
   */
  get(name: SessionName): Session {
    return this.peek(name) ?? this.#missing(name);
  }

  /** Sessions of one tenant, most recently used first. */
  list(tenant: string): Session[] {
    return this.#tenants.get(tenant)?.list() ?? [];
  }

  /**
   * A new session, or throws where there is one.
   * @throws {SessionExistsError}
   * @throws {SessionGoneError} when its file cannot be read: delete it first
   * @throws {SessionLimitError} when the tenant has as many as it may, and they are kept
   */
  make(name: SessionName, ttlMs?: number): Session {
    const key = this.key(name);
    if (this.peek(name)) throw new SessionExistsError(name.id);
    this.#requireReadable(name.id, key);
    const sessions = this.#of(name);
    if (this.#journal && sessions.size >= this.#maxSessions) {
      throw new SessionLimitError(name.id, this.#maxSessions);
    }
    const session = new Session(name, { key });
    session.ttlMs = ttlMs;
    session.expiresAt = Date.now() + (ttlMs ?? this.ttlMs);
    sessions.rest(session);
    return session;
  }

  /**
   * Holds a session for a turn; one that is not there is made. Needs its {@linkcode SessionStore.end}.
   * @throws {SessionBusyError} | {TurnSupersededError} as `TurnLock.acquire`
   * @throws {SessionGoneError} | {SessionLimitError} as {@linkcode SessionStore.make}
   */
  async begin(name: SessionName, options: AcquireOptions = {}): Promise<HeldSession> {
    return await this.#hold(() => this.peek(name) ?? this.make(name), options);
  }

  /** A session for one call, which keeps nothing. Needs its {@linkcode SessionStore.end}. */
  async single(): Promise<HeldSession> {
    const session = new Session(undefined);
    session.closed = true;
    this.#tiers.hold(session);
    return { session, hold: await session.lock.acquire() };
  }

  /**
   * {@linkcode SessionStore.begin} of a session that has to be there, also when the wait for it is over: who waited for
   * one that was deleted meanwhile must not go on with an empty one of its name.
   * @throws as {@linkcode SessionStore.get}
   */
  async take(name: SessionName, options: AcquireOptions = {}): Promise<HeldSession> {
    const held = await this.#hold(() => this.get(name), options);
    if (held.session.established) return held;
    // Nothing came of the turn that was to be its first.
    this.end(held);
    return this.#missing(name);
  }

  /** Ends a turn or a verb, well or not: the session is idle again, or gone if nothing ever came of it. */
  end({ session, hold }: HeldSession): void {
    this.#tiers.release(session);
    if (!session.closed) {
      const sessions = this.#of(session.name!);
      // Who waits for it goes on with this session, not with a new one.
      if (session.established || !session.lock.lonely) sessions.rest(session);
      else {
        sessions.remove(session.key);
        session.closed = true;
      }
      if (!this.#journal) sessions.trim(this.#maxSessions);
    }
    if (session.closed) this.#tiers.drop(session);
    hold.release();
  }

  /**
   * Changes the transcript, on disk first. The caller holds the session.
   * @param ttlMs lifetime from now on; as it was when absent
   * @throws {StorageError} when the disk refuses; nothing has changed
   */
  async commit(session: Session, delta: TranscriptDelta, ttlMs: number | undefined = session.ttlMs): Promise<void> {
    if (session.closed) return;
    // Before the journal's own time, so that no session is promised for longer than it is kept.
    const at = Date.now();
    await this.#journal?.append(session, delta, ttlMs);
    session.ttlMs = ttlMs;
    session.expiresAt = at + (ttlMs ?? this.ttlMs);
    session.transcript.apply(delta);
    session.established = true;
    // One that was deleted meanwhile is gone for a reason.
    if (!session.closed) this.#gone.delete(session.key);
  }

  /**
   * Forgets a session and removes its files. Its KV goes now, or when its running turn ends.
   * @returns whether there was one, or a file that could not be read or removed before
   * @throws {StorageError} when the disk refuses: the session is gone until the next start, and for good once this was
   *   called again and returned
   */
  async delete(name: SessionName): Promise<boolean> {
    const session = this.peek(name);
    const key = this.key(name);
    if (!session) return await this.#journal?.discard(key) ?? false;
    this.#of(name).remove(key);
    this.#gone.set(key, "deleted");
    await this.#forget(session);
    return true;
  }

  stats(): SessionStoreStats {
    return { sessions: sum([...this.#tenants.values()].map(({ size }) => size)), ...this.#tiers.stats() };
  }

  /** Gives all KV back, but for running turns', which goes when they end. Files stay. */
  [Symbol.dispose](): void {
    for (const sessions of this.#tenants.values()) {
      const { running, idle } = sessions.clear();
      for (const session of [...running, ...idle]) session.closed = true;
      for (const session of idle) this.#tiers.abandon(session);
    }
  }

  #of({ tenant }: SessionName): TenantSessions {
    const known = this.#tenants.get(tenant);
    if (known) return known;
    const sessions = new TenantSessions((session, reason) => this.#lose(session, reason));
    this.#tenants.set(tenant, sessions);
    return sessions;
  }

  /** Holds what `find` gives, and asks it again where that went while this waited. */
  async #hold(find: () => Session, options: AcquireOptions): Promise<HeldSession> {
    for (;;) {
      const session = find();
      const hold = await session.lock.acquire(options);
      if (session.closed) {
        hold.release();
        continue;
      }
      this.#of(session.name!).run(session);
      this.#tiers.hold(session);
      return { session, hold };
    }
  }

  /** Forgets a session that nobody deleted. */
  #lose(session: Session, reason: GoneReason): void {
    this.#gone.set(session.key, reason);
    // A file that stays behind is found at the next start.
    this.#forget(session).catch(() => {});
  }

  async #forget(session: Session): Promise<void> {
    session.closed = true;
    if (session.lock.free) this.#tiers.drop(session);
    await this.#journal?.remove(session.key);
  }

  #missing(name: SessionName): never {
    const key = this.key(name);
    this.#requireReadable(name.id, key);
    const reason = this.#gone.get(key);
    throw reason ? new SessionGoneError(name.id, reason) : new SessionNotFoundError(name.id);
  }

  #requireReadable(id: string, key: string): void {
    const why = this.#journal?.unreadable(key);
    if (why !== undefined) throw new SessionGoneError(id, "unreadable", why);
  }
}

/** Fills in the tenant. */
export const sessionName = (id: string, tenant: string = DEFAULT_TENANT): SessionName => ({ tenant, id });
