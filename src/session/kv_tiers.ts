import type { Backend } from "../backend/backend.ts";
import { BackendUnavailableError, OutOfMemoryError } from "../errors.ts";
import { joinParts } from "../kv/kv_parts.ts";
import { reusablePrefix } from "./common_prefix.ts";
import { KvMembers, sum } from "./kv_members.ts";
import { KvRates, MeasuredParking, type ParkingPolicy } from "./kv_rates.ts";
import { ParkedStore, type ParkedStoreOptions } from "./parked_store.ts";
import type { Session } from "./session.ts";
import type { ParkedKv } from "./session_kv.ts";
import type { Hold } from "./turn_lock.ts";

/** Options of {@linkcode KvTiers}. */
export interface KvTiersOptions extends ParkedStoreOptions {
  /** Backend memory that the KV of all sessions together may hold. */
  hotBytes: number;
  /** @default what is measured to pay */
  parking?: ParkingPolicy;
}

/** What the tiers hold, in bytes, and what they did since the start. */
export interface KvTiersStats {
  hotBytes: number;
  warmBytes: number;
  parkedBytes: number;
  /** Sessions with KV in the backend, in host memory, on disk. */
  hot: number;
  warm: number;
  parked: number;
  /** Public prefixes with KV in the backend; their bytes are among `hotBytes`. */
  publicPrefixes: number;
  /** KV that left the backend to make room, dropped or parked. */
  evictions: number;
  parks: number;
  restores: number;
  /** Parked KV that could not be restored: damaged, unreadable, or no memory. */
  failedRestores: number;
  hotBudgetBytes: number;
  warmBudgetBytes: number;
  parkedBudgetBytes: number;
}

/** KV of a prompt's first tokens that somebody else has. To be taken at once, or not: it may be gone after any wait. */
export interface KvOffer {
  tokens: number;
  /** Whether it is a public prefix's, or the tenant's own. */
  isPublic: boolean;
  /** Gives it to a held session without KV. */
  give(session: Session): void;
}

/** Tokens of a prefix that are worth sharing between a tenant's sessions. */
const LEAST_SHARED = 16;

/**
 * Three budgets over the KV of all sessions: backend, host memory, disk. KV of idle sessions goes down a tier, or away,
 * least recently used first, when room is needed; a running turn keeps what it reserved.
 */
export class KvTiers {
  readonly rates: KvRates = new KvRates();
  readonly hotBudgetBytes: number;
  readonly #backend: Backend;
  readonly #parking: ParkingPolicy;
  readonly #members = new KvMembers();
  readonly #parked: ParkedStore;
  /** Sessions whose KV is on its way out of the backend. */
  readonly #leaving = new Map<Session, Promise<void>>();
  #counts = { evictions: 0, parks: 0, restores: 0, failedRestores: 0 };

  constructor(backend: Backend, options: KvTiersOptions) {
    this.#backend = backend;
    this.#parking = options.parking ?? new MeasuredParking(this.rates);
    this.#parked = new ParkedStore(this.#members, options);
    this.hotBudgetBytes = options.hotBytes;
  }

  /** Takes note of a session whose turn begins: its KV stays where it is until `release`. */
  hold(session: Session): void {
    if (session.kv.cache?.lost) this.drop(session);
    this.#members.reserve(session, session.kv.hotBytes);
    this.#members.add(session);
  }

  /**
   * Promises `bytes` of KV to a held session, making room where needed.
   * @throws {OutOfMemoryError} when running turns hold what is missing, or the budget is smaller; nothing is promised
   */
  async reserve(session: Session, bytes: number): Promise<void> {
    const before = this.#members.reserved(session) ?? 0;
    const promised = Math.max(bytes, session.kv.hotBytes);
    this.#members.reserve(session, promised);
    try {
      while (this.#excess() > 0) {
        if (this.#excess(this.#leaving) <= 0) await Promise.race(this.#leaving.values());
        else if (this.availableBytes < 0 || !this.#evictOne()) throw this.#full(session, promised);
      }
    } catch (error) {
      this.#members.reserve(session, before);
      throw error;
    }
  }

  /**
   * Runs what takes backend memory, again and again as long as the backend has less than the budget says and there is
   * idle KV to give up, least recently used first.
   * @param work leaves everything as it was when it throws an {@linkcode OutOfMemoryError}
   * @throws what `work` throws
   */
  async withRoom<T>(work: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof OutOfMemoryError)) throw error;
        if (this.#leaving.size === 0 && !this.#evictOne()) throw error;
        await Promise.race(this.#leaving.values());
      }
    }
  }

  /** Ends a hold: the session is the most recently used, and idle. */
  release(session: Session): void {
    this.#members.release(session);
    if (session.kv.state === "cold" || session.kv.ids.length === 0) this.drop(session);
    else this.#members.add(session);
  }

  /** Whether bringing a session's parked KV back costs less than evaluating `tokens` of it. */
  restorePays(session: Session, tokens: number): boolean {
    const { parked } = session.kv;
    return parked !== undefined && tokens > 0 && this.#parking.pays(tokens, parked.byteLength);
  }

  /**
   * Brings parked KV back into the backend. The session is held, with a reservation for all that was parked.
   * @returns whether it is hot now; if not, it is cold
   */
  async restore(session: Session): Promise<boolean> {
    const { kv } = session;
    const { parked } = kv;
    if (!parked) return false;
    const startedAt = performance.now();
    try {
      kv.cache = await this.withRoom(() => this.#backend.importKv(this.#parked.read(session), parked.tokens));
      if (kv.cache.length > kv.ids.length) kv.cache.truncate(kv.ids.length);
    } catch {
      // Nothing is lost but time: the turn evaluates the ids.
      this.#counts.failedRestores++;
      this.drop(session);
      return false;
    }
    this.rates.recordRestore(parked.byteLength, performance.now() - startedAt);
    this.#counts.restores++;
    this.#parked.drop(session);
    return true;
  }

  /**
   * Moves a session's KV out of the backend: to host memory, to disk, or away, whichever the budgets allow and pays.
   * The caller holds the session's lock.
   */
  async park(session: Session, { inMemory = true } = {}): Promise<void> {
    const { kv } = session;
    if (!kv.cache) return;
    const tokens = kv.ids.length;
    const bytes = this.#backend.kvBytes(tokens);
    const { warmBudgetBytes, diskBudgetBytes } = this.#parked;
    const fits = bytes <= Math.max(inMemory ? warmBudgetBytes : 0, diskBudgetBytes);
    const pays = tokens > 0 && fits && this.#parking.pays(tokens, bytes);
    // Without a name: a public prefix, which comes back with the next turn that evaluates it.
    if (kv.cache.lost || session.name === undefined || !pays) return this.drop(session);
    // Whatever went wrong, the words are still there.
    const kept = await this.#parked.keep(session, this.#backend.exportKv(kv.cache), { most: bytes, inMemory })
      .catch(() => false);
    if (!kept) return this.drop(session);
    kv.disposeCache();
    this.#counts.parks++;
  }

  /** A copy of a held session's KV, wherever it is; `undefined` where there is none, or it cannot be had. */
  async export(session: Session): Promise<{ tokens: number; data: Uint8Array } | undefined> {
    const { kv } = session;
    const tokens = kv.ids.length;
    try {
      // What was parked with more tokens than are left cannot be cut.
      if (kv.state !== "hot" && kv.parked?.tokens !== tokens) return undefined;
      const parts = kv.state === "hot" ? this.#backend.exportKv(kv.cache!) : this.#parked.read(session);
      return { tokens, data: await joinParts(parts, this.#backend.kvBytes(tokens)) };
    } catch {
      return undefined;
    }
  }

  /** Gives up a session's KV, wherever it is. */
  drop(session: Session): void {
    session.kv.truncate(0);
    session.kv.disposeCache();
    this.#parked.drop(session);
    this.#members.delete(session);
  }

  /**
   * What another session of the tenant has of a prompt, where the backend shares memory: many conversations begin with
   * the same words.
   */
  offer({ name }: Session, promptIds: readonly number[]): KvOffer | undefined {
    if (!this.#backend.info.kvShares || name === undefined) return undefined;
    let [donor, tokens]: [Session | undefined, number] = [undefined, LEAST_SHARED - 1];
    for (const other of this.#members) {
      const mayGive = other.name?.tenant === name.tenant && other.kv.state === "hot" && other.lock.free;
      const length = mayGive ? reusablePrefix(other.kv.ids, promptIds) : 0;
      if (length > tokens) [donor, tokens] = [other, length];
    }
    return donor && {
      tokens,
      isPublic: false,
      give: ({ kv }) => {
        kv.cache = donor.kv.cache!.fork(tokens);
        for (const id of promptIds.slice(0, tokens)) kv.ids.push(id);
      },
    };
  }

  /** Gives a session's memory back, and leaves what is in files for the next start. */
  abandon(session: Session): void {
    if (session.kv.state === "parked") this.#members.delete(session);
    else this.drop(session);
  }

  /**
   * Gives `to` a copy of the first `tokens` of `from`'s KV, or shares it where the backend can. Both are held, and
   * `to` has none. Without room `to` stays cold.
   */
  async fork(from: Session, to: Session, tokens: number): Promise<void> {
    if (tokens === 0) return;
    try {
      if (from.kv.state === "hot") {
        await this.reserve(to, this.#backend.kvBytes(tokens));
        to.kv.cache = from.kv.cache!.fork(tokens);
      } else if (from.kv.state === "warm") to.kv.parked = from.kv.parked;
      else return;
    } catch (error) {
      // A fork without KV is a fork still.
      if (error instanceof OutOfMemoryError || error instanceof BackendUnavailableError) return;
      throw error;
    }
    for (const id of from.kv.ids.slice(0, tokens)) to.kv.ids.push(id);
  }

  /**
   * Calls `work`, which makes so many bytes of idle KV, once there is room for them: idle sessions' KV gives way, least
   * recently used first; where running turns hold what is missing, nothing happens.
   */
  async whenRoom(bytes: number, work: () => void): Promise<void> {
    while (this.#excess() + bytes > 0) {
      if (this.#excess(this.#leaving) + bytes <= 0) await Promise.race(this.#leaving.values());
      else if (this.availableBytes < bytes || !this.#evictOne()) return;
    }
    work();
  }

  /** Takes over KV that is in a session's file, if the budget has room for it; else the file goes. */
  adopt(session: Session, parked: ParkedKv): void {
    this.#parked.adopt(session, parked);
  }

  /** Writes idle KV to disk as far as it pays and its budget goes, most recently used first: for the next start. */
  async persist(): Promise<void> {
    if (this.#parked.diskBudgetBytes === 0) return;
    for (const session of [...this.#members].reverse()) {
      const hold = session.lock.tryWork();
      if (!hold) continue;
      if (session.kv.cache) await this.park(session, { inMemory: false });
      else if (session.kv.state === "warm" && !await this.#parked.moveToDisk(session)) this.drop(session);
      this.#letGo(session, hold);
    }
  }

  /** Backend memory that running turns leave. */
  get availableBytes(): number {
    return this.hotBudgetBytes - this.#members.reservedBytes;
  }

  stats(): KvTiersStats {
    const members = [...this.#members];
    // Idle without a name: no session.
    const prefixes = members.filter((one) => one.name === undefined && this.#members.reserved(one) === undefined);
    const count = (state: string) => members.filter(({ kv }) => kv.state === state).length;
    const publicPrefixes = prefixes.filter(({ kv }) => kv.state === "hot").length;
    return {
      hotBytes: sum(members.map(({ kv }) => kv.hotBytes)),
      warmBytes: this.#parked.warmBytes,
      parkedBytes: this.#parked.diskBytes,
      hot: count("hot") - publicPrefixes,
      warm: count("warm"),
      parked: count("parked"),
      publicPrefixes,
      ...this.#counts,
      hotBudgetBytes: this.hotBudgetBytes,
      warmBudgetBytes: this.#parked.warmBudgetBytes,
      parkedBudgetBytes: this.#parked.diskBudgetBytes,
    };
  }

  /** Bytes over the budget, once all that is promised is used. @param without sessions not to count */
  #excess(without?: ReadonlyMap<Session, unknown>): number {
    let idle = 0;
    for (const session of this.#members) {
      if (this.#members.reserved(session) === undefined && !without?.has(session)) idle += session.kv.hotBytes;
    }
    return idle - this.availableBytes;
  }

  /** @returns whether there was somebody whose KV can go */
  #evictOne(): boolean {
    const idle = this.#members.takeIdle(({ kv }) => kv.cache !== undefined);
    if (!idle) return false;
    const [victim, hold] = idle;
    this.#counts.evictions++;
    const eviction = this.park(victim).finally(() => {
      this.#leaving.delete(victim);
      this.#letGo(victim, hold);
    });
    this.#leaving.set(victim, eviction);
    return true;
  }

  /** Ends work on a session, which may have been deleted meanwhile. */
  #letGo(session: Session, hold: Hold): void {
    if (session.closed) this.drop(session);
    hold.release();
  }

  #full(session: Session, bytes: number): OutOfMemoryError {
    const others = this.#members.reservedBytes - (this.#members.reserved(session) ?? 0);
    return new OutOfMemoryError(
      `Cannot reserve ${mib(bytes)} of KV memory: the budget is ${mib(this.hotBudgetBytes)}, ` +
        `and running turns hold ${mib(others)} of it; try again later or ask for fewer tokens`,
    );
  }
}

const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
