import { kvChecksum } from "./kv_checksum.ts";
import { type KvMembers, sum } from "./kv_members.ts";
import type { Session } from "./session.ts";
import type { ParkedKv } from "./session_kv.ts";
import type { Hold } from "./turn_lock.ts";

/** Files for parked KV. */
export interface KvFiles {
  /** Writes it, replacing what was there. @throws {StorageError} */
  writeParked(session: Session, parked: ParkedKv, data: Uint8Array): Promise<void>;
  /** @throws {StorageError} when there is none, or it is not the KV it should be */
  readParked(session: Session, parked: ParkedKv): Promise<Uint8Array>;
  /** Removes it. Idempotent. */
  removeParked(session: Session): Promise<void>;
}

/** Options of {@linkcode ParkedStore}. */
export interface ParkedStoreOptions {
  /** Host memory for parked KV. @default 0: nothing is kept there */
  warmBytes?: number;
  /** Disk for parked KV, if there are files. @default 0 */
  parkedBytes?: number;
  files?: KvFiles;
}

/** KV outside the backend: in host memory, then on disk, each with its budget, least recently used out first. */
export class ParkedStore {
  readonly warmBudgetBytes: number;
  readonly diskBudgetBytes: number;
  readonly #members: KvMembers;
  readonly #files: KvFiles | undefined;

  constructor(members: KvMembers, { warmBytes = 0, parkedBytes = 0, files }: ParkedStoreOptions) {
    this.#members = members;
    this.#files = files;
    this.warmBudgetBytes = warmBytes;
    this.diskBudgetBytes = files ? parkedBytes : 0;
  }

  /** Bytes in host memory; what sessions share counts once. */
  get warmBytes(): number {
    const distinct = new Set<Uint8Array>();
    for (const { kv } of this.#members) if (kv.parked?.data) distinct.add(kv.parked.data);
    return sum([...distinct].map((data) => data.byteLength));
  }

  /** Bytes on disk. */
  get diskBytes(): number {
    return sum([...this.#members].map(({ kv }) => kv.state === "parked" ? kv.parked!.byteLength : 0));
  }

  /**
   * Keeps exported KV of a session that the caller holds, in memory if there is room, else on disk.
   * @returns whether it is kept
   */
  async keep(session: Session, data: Uint8Array, { inMemory }: { inMemory: boolean }): Promise<boolean> {
    const parked = {
      tokens: session.kv.ids.length,
      byteLength: data.byteLength,
      checksum: await kvChecksum(data),
    };
    if (inMemory && await this.#keepInMemory(session, { ...parked, data })) return true;
    return await this.#keepOnDisk(session, parked, data);
  }

  /** Moves what is in host memory to disk, if there is room: a copy for the next start. The caller holds the session. */
  async moveToDisk(session: Session): Promise<boolean> {
    const { data, ...parked } = session.kv.parked!;
    session.kv.parked = undefined;
    return await this.#keepOnDisk(session, parked, data!);
  }

  /**
   * The bytes that a session has parked. They stay.
   * @throws {StorageError} when the file cannot be read
   * @throws {RangeError} when they are not the bytes that were parked
   */
  async read(session: Session): Promise<Uint8Array> {
    const parked = session.kv.parked!;
    const data = parked.data ?? await this.#files!.readParked(session, parked);
    if (await kvChecksum(data) !== parked.checksum) throw new RangeError("Cannot restore KV: its bytes have changed");
    return data;
  }

  /**
   * As {@linkcode ParkedStore.read}, once: bytes in host memory that no other session shares are the caller's to give
   * away, and the session must not be read again.
   */
  async take(session: Session): Promise<{ data: Uint8Array; owned: boolean }> {
    const data = await this.read(session);
    const shared = [...this.#members].some((other) => other !== session && other.kv.parked?.data === data);
    return { data, owned: !shared };
  }

  /** Takes over what is in a session's file, if the budget has room for it; else the file goes. */
  adopt(session: Session, parked: ParkedKv): void {
    if (this.diskBytes + parked.byteLength > this.diskBudgetBytes) return this.#removeFile(session);
    session.kv.parked = parked;
    for (const id of session.transcript.ids.slice(0, parked.tokens)) session.kv.ids.push(id);
    this.#members.add(session);
  }

  /** Forgets what a session has parked. */
  drop(session: Session): void {
    const { parked } = session.kv;
    session.kv.parked = undefined;
    if (parked && !parked.data) this.#removeFile(session);
  }

  async #keepInMemory(session: Session, parked: ParkedKv): Promise<boolean> {
    if (parked.byteLength > this.warmBudgetBytes) return false;
    while (this.warmBytes + parked.byteLength > this.warmBudgetBytes) {
      const idle = this.#members.takeIdle((other) => other !== session && other.kv.state === "warm");
      if (!idle) return false;
      const kept = await this.moveToDisk(idle[0]);
      this.#letGo(idle, kept);
    }
    session.kv.parked = parked;
    return true;
  }

  async #keepOnDisk(session: Session, parked: ParkedKv, data: Uint8Array): Promise<boolean> {
    if (!this.#files || parked.byteLength > this.diskBudgetBytes || session.name === undefined) return false;
    while (this.diskBytes + parked.byteLength > this.diskBudgetBytes) {
      const idle = this.#members.takeIdle((other) => other !== session && other.kv.state === "parked");
      if (!idle) return false;
      this.#letGo(idle, false);
    }
    // Counted from here on, so that two at once do not both find the room.
    session.kv.parked = parked;
    try {
      await this.#files.writeParked(session, parked, data);
      return true;
    } catch {
      this.drop(session);
      return false;
    }
  }

  /** Ends work on an idle session, whose KV is not kept or which may have been deleted meanwhile. */
  #letGo([session, hold]: [Session, Hold], kept: boolean): void {
    if (!kept || session.closed) {
      session.kv.truncate(0);
      this.drop(session);
      this.#members.delete(session);
    }
    hold.release();
  }

  #removeFile(session: Session): void {
    // A file that stays behind is found and removed at the next start.
    this.#files?.removeParked(session).catch(() => {});
  }
}
