import { createHash } from "node:crypto";
import type { Backend } from "../backend/backend.ts";
import { BackendUnavailableError, OutOfMemoryError } from "../errors.ts";
import { reusablePrefix } from "./common_prefix.ts";
import { KvRates, MeasuredParking, type ParkingPolicy } from "./kv_rates.ts";
import type { Session } from "./session.ts";
import type { ParkedKv } from "./session_kv.ts";
import type { Hold } from "./turn_lock.ts";

/** Files for parked KV. */
export interface KvFiles {
  /** Writes them, replacing what was there. @throws {StorageError} */
  writeParked(session: Session, parked: ParkedKv, data: Uint8Array): Promise<void>;
  /** @throws {StorageError} when there is none, or it is not the KV it should be */
  readParked(session: Session, parked: ParkedKv): Promise<Uint8Array>;
  /** Removes it. Idempotent. */
  removeParked(session: Session): Promise<void>;
}

/** Options of {@linkcode KvTiers}. */
export interface KvTiersOptions {
  /** Backend memory that the KV of all sessions together may hold. */
  hotBytes: number;
  /** Host memory for parked KV. @default 0: nothing is kept there */
  warmBytes?: number;
  /** Disk for parked KV, if there are files. @default 0 */
  parkedBytes?: number;
  files?: KvFiles;
  /** @default what is measured to pay */
  parking?: ParkingPolicy;
}

/** What the tiers hold, in bytes, and what they did since the start. */
export interface KvTiersStats {
  hotBytes: number;
  warmBytes: number;
  parkedBytes: number;
  hot: number;
  warm: number;
  parked: number;
  /** KV that left the backend to make room, dropped or parked. */
  evictions: number;
  parks: number;
  restores: number;
  /** Parked KV that could not be restored: damaged, unreadable, or no memory. */
  failedRestores: number;
}

/** Tokens of a prefix that are worth sharing. */
const LEAST_SHARED = 16;

/**
 * Three budgets over the KV of all sessions: backend, host memory, disk. KV of idle sessions goes down a tier, or away,
 * least recently used first, when room is needed; a running turn keeps what it reserved.
 */
export class KvTiers {
  readonly rates: KvRates = new KvRates();
  readonly budgets: { readonly hotBytes: number; readonly warmBytes: number; readonly parkedBytes: number };
  readonly #backend: Backend;
  readonly #files: KvFiles | undefined;
  readonly #parking: ParkingPolicy;
  /** Everybody with KV anywhere, least recently used first. */
  readonly #members = new Set<Session>();
  /** Bytes promised to running turns. */
  readonly #reserved = new Map<Session, number>();
  /** Sessions whose KV is on its way out of the backend. */
  readonly #leaving = new Map<Session, Promise<void>>();
  #counts = { evictions: 0, parks: 0, restores: 0, failedRestores: 0 };

  constructor(backend: Backend, options: KvTiersOptions) {
    this.#backend = backend;
    this.#files = options.files;
    this.#parking = options.parking ?? new MeasuredParking(this.rates);
    this.budgets = {
      hotBytes: options.hotBytes,
      warmBytes: options.warmBytes ?? 0,
      parkedBytes: options.files ? options.parkedBytes ?? 0 : 0,
    };
  }

  /** Takes note of a session whose turn begins: its KV stays where it is until `release`. */
  hold(session: Session): void {
    if (session.kv.cache?.lost) this.drop(session);
    this.#reserved.set(session, session.kv.hotBytes);
    this.#members.add(session);
  }

  /**
   * Promises `bytes` of KV to a held session, making room where needed.
   * @throws {OutOfMemoryError} when running turns hold what is missing, or the budget is smaller; nothing is promised
   */
  async reserve(session: Session, bytes: number): Promise<void> {
    const before = this.#reserved.get(session) ?? 0;
    const promised = Math.max(bytes, session.kv.hotBytes);
    this.#reserved.set(session, promised);
    try {
      while (this.#excess() > 0) {
        if (this.#excess(this.#leaving) <= 0) await Promise.race(this.#leaving.values());
        else if (this.#reservedBytes() > this.budgets.hotBytes || !this.#evictOne()) {
          throw this.#full(session, promised);
        }
      }
    } catch (error) {
      this.#reserved.set(session, before);
      throw error;
    }
  }

  /** Ends a hold: the session is the most recently used, and idle. */
  release(session: Session): void {
    this.#reserved.delete(session);
    this.#members.delete(session);
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
      const data = parked.data ?? await this.#files!.readParked(session, parked);
      if (sha256(data) !== parked.sha256) throw new RangeError("Cannot restore KV: its bytes have changed");
      kv.cache = await this.#backend.importKv(data, parked.tokens);
      if (kv.cache.length > kv.ids.length) kv.cache.truncate(kv.ids.length);
    } catch {
      // Nothing is lost but time: the turn evaluates the ids.
      this.#counts.failedRestores++;
      this.drop(session);
      return false;
    }
    this.rates.recordRestore(parked.byteLength, performance.now() - startedAt);
    this.#counts.restores++;
    this.#unpark(session);
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
    const roomBytes = Math.max(inMemory ? this.budgets.warmBytes : 0, this.budgets.parkedBytes);
    if (
      kv.cache.lost || tokens === 0 || bytes > roomBytes || !this.#parking.pays(tokens, bytes)
    ) {
      return this.drop(session);
    }
    let data: Uint8Array;
    try {
      data = await this.#backend.exportKv(kv.cache);
    } catch {
      return this.drop(session);
    }
    kv.disposeCache();
    const parked = { tokens, byteLength: data.byteLength, sha256: sha256(data) };
    const kept = inMemory && await this.#keepWarm(session, { ...parked, data }) ||
      await this.#keepOnDisk(session, parked, data);
    if (kept) this.#counts.parks++;
    else this.drop(session);
  }

  /** A copy of a held session's KV, wherever it is; `undefined` where there is none, or it cannot be had. */
  async export(session: Session): Promise<{ tokens: number; data: Uint8Array } | undefined> {
    const { kv } = session;
    const tokens = kv.ids.length;
    try {
      if (kv.state === "hot") return { tokens, data: await this.#backend.exportKv(kv.cache!) };
      // What was parked with more tokens than are left cannot be cut.
      if (kv.parked?.tokens !== tokens) return undefined;
      const data = kv.parked.data ?? await this.#files!.readParked(session, kv.parked);
      return sha256(data) === kv.parked.sha256 ? { tokens, data } : undefined;
    } catch {
      return undefined;
    }
  }

  /** Gives up a session's KV, wherever it is. */
  drop(session: Session): void {
    session.kv.truncate(0);
    session.kv.disposeCache();
    this.#unpark(session);
    if (!this.#reserved.has(session)) this.#members.delete(session);
  }

  /**
   * Gives a held session without KV what another session of its tenant has of a prompt, where the backend shares
   * memory: many conversations begin with the same words.
   * @returns tokens that it has now
   */
  share({ name, kv }: Session, promptIds: readonly number[]): number {
    if (!this.#backend.info.kvShares || name === undefined || kv.cache || kv.parked) return 0;
    let donor: Session | undefined;
    let most = LEAST_SHARED - 1;
    for (const other of this.#members) {
      const mayGive = other.name?.tenant === name.tenant && other.kv.state === "hot" && !this.#reserved.has(other);
      const length = mayGive && other.lock.free ? reusablePrefix(other.kv.ids, promptIds) : 0;
      if (length > most) [donor, most] = [other, length];
    }
    if (!donor) return 0;
    kv.cache = donor.kv.cache!.fork(most);
    for (const id of promptIds.slice(0, most)) kv.ids.push(id);
    return most;
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
    const count = Math.min(tokens, from.kv.ids.length);
    if (count === 0) return;
    try {
      if (from.kv.state === "hot") {
        if (!this.#backend.info.kvShares) await this.reserve(to, this.#backend.kvBytes(count));
        to.kv.cache = from.kv.cache!.fork(count);
      } else if (from.kv.state === "warm") to.kv.parked = from.kv.parked;
      else return;
    } catch (error) {
      // A fork without KV is a fork still.
      if (error instanceof OutOfMemoryError || error instanceof BackendUnavailableError) return;
      throw error;
    }
    for (const id of from.kv.ids.slice(0, count)) to.kv.ids.push(id);
  }

  /** Takes over KV that is in a session's file, if the budget has room for it; else the file goes. */
  adopt(session: Session, parked: ParkedKv): void {
    if (this.#diskBytes() + parked.byteLength > this.budgets.parkedBytes) {
      this.#files?.removeParked(session).catch(() => {});
      return;
    }
    session.kv.parked = parked;
    for (const id of session.transcript.ids.slice(0, parked.tokens)) session.kv.ids.push(id);
    this.#members.add(session);
  }

  /** Writes idle KV to disk as far as it pays and its budget goes, most recently used first: for the next start. */
  async persist(): Promise<void> {
    if (!this.#files) return;
    for (const session of [...this.#members].reverse()) {
      const hold = this.#reserved.has(session) ? undefined : session.lock.tryWork();
      if (!hold) continue;
      const { data, ...parked } = session.kv.parked ?? {};
      if (session.kv.cache) await this.park(session, { inMemory: false });
      else if (data) await this.#keepOnDisk(session, parked as ParkedKv, data);
      this.#letGo(session, hold);
    }
  }

  /** Backend memory that running turns leave. */
  get availableBytes(): number {
    return this.budgets.hotBytes - this.#reservedBytes();
  }

  stats(): KvTiersStats {
    const members = [...this.#members];
    const count = (state: string) => members.filter(({ kv }) => kv.state === state).length;
    return {
      hotBytes: sum(members.map(({ kv }) => kv.hotBytes)),
      warmBytes: this.#warmBytes(),
      parkedBytes: this.#diskBytes(),
      hot: count("hot"),
      warm: count("warm"),
      parked: count("parked"),
      ...this.#counts,
    };
  }

  #reservedBytes(): number {
    return sum(this.#reserved.values());
  }

  /** Bytes over the budget, once all that is promised is used. @param without sessions not to count */
  #excess(without?: ReadonlyMap<Session, unknown>): number {
    let idle = 0;
    for (const session of this.#members) {
      if (!this.#reserved.has(session) && !without?.has(session)) idle += session.kv.hotBytes;
    }
    return this.#reservedBytes() + idle - this.budgets.hotBytes;
  }

  /** @returns whether there was somebody whose KV can go */
  #evictOne(): boolean {
    const [victim, hold] = this.#idle(({ kv }) => kv.cache !== undefined);
    if (!victim) return false;
    this.#counts.evictions++;
    const eviction = this.park(victim).finally(() => {
      this.#leaving.delete(victim);
      this.#letGo(victim, hold);
    });
    this.#leaving.set(victim, eviction);
    return true;
  }

  async #keepWarm(session: Session, parked: ParkedKv): Promise<boolean> {
    const { warmBytes } = this.budgets;
    if (parked.byteLength > warmBytes) return false;
    const full = () => this.#warmBytes() + parked.byteLength > warmBytes;
    while (full()) {
      const [victim, hold] = this.#idle((other) => other !== session && other.kv.state === "warm");
      if (!victim) return false;
      const { data, ...rest } = victim.kv.parked!;
      victim.kv.parked = undefined;
      try {
        if (!await this.#keepOnDisk(victim, rest, data!)) this.drop(victim);
      } finally {
        this.#letGo(victim, hold);
      }
    }
    session.kv.parked = parked;
    return true;
  }

  async #keepOnDisk(session: Session, parked: ParkedKv, data: Uint8Array): Promise<boolean> {
    const { parkedBytes } = this.budgets;
    if (!this.#files || parked.byteLength > parkedBytes || session.name === undefined) return false;
    while (this.#diskBytes() + parked.byteLength > parkedBytes) {
      const [victim, hold] = this.#idle((other) => other !== session && other.kv.state === "parked");
      if (!victim) return false;
      this.drop(victim);
      hold.release();
    }
    // Counted from here on, so that two at once do not both find the room.
    session.kv.parked = parked;
    try {
      await this.#files.writeParked(session, parked, data);
      return true;
    } catch {
      return false;
    }
  }

  /** The least recently used session that nobody holds, and a hold on it. */
  #idle(wanted: (session: Session) => boolean) {
    for (const session of this.#members) {
      if (this.#reserved.has(session) || !wanted(session)) continue;
      const hold = session.lock.tryWork();
      if (hold) return [session, hold] as const;
    }
    return [undefined, undefined] as const;
  }

  /** Ends work on a session, which may have been deleted meanwhile. */
  #letGo(session: Session, hold: Hold): void {
    if (session.closed) this.drop(session);
    hold.release();
  }

  #unpark(session: Session): void {
    const { parked } = session.kv;
    session.kv.parked = undefined;
    // A file that stays behind is found and removed at the next start.
    if (parked && !parked.data) this.#files?.removeParked(session).catch(() => {});
  }

  #warmBytes(): number {
    const distinct = new Set<Uint8Array>();
    for (const { kv } of this.#members) if (kv.parked?.data) distinct.add(kv.parked.data);
    return sum([...distinct].map((data) => data.byteLength));
  }

  #diskBytes(): number {
    return sum([...this.#members].map(({ kv }) => kv.state === "parked" ? kv.parked!.byteLength : 0));
  }

  #full(session: Session, bytes: number): OutOfMemoryError {
    const others = this.#reservedBytes() - (this.#reserved.get(session) ?? 0);
    return new OutOfMemoryError(
      `Cannot reserve ${mib(bytes)} of KV memory: the budget is ${mib(this.budgets.hotBytes)}, ` +
        `and running turns hold ${mib(others)} of it; try again later or ask for fewer tokens`,
    );
  }
}

/** SHA-256 of parked KV, in hex. */
export const sha256 = (data: Uint8Array): string => createHash("sha256").update(data).digest("hex");
const sum = (values: Iterable<number>) => [...values].reduce((total, value) => total + value, 0);
const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
