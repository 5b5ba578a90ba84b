import { joinParts, type KvParts, slices } from "../kv/kv_parts.ts";
import { type KvMembers, sum } from "./kv_members.ts";
import type { Session } from "./session.ts";
import type { ParkedKv } from "./session_kv.ts";
import type { Hold } from "./turn_lock.ts";

/** Files for parked KV. */
export interface KvFiles {
  /** Writes KV of so many tokens, replacing what was there. @throws {StorageError} and whatever `parts` throw */
  writeParked(session: Session, tokens: number, parts: KvParts): Promise<ParkedKv>;
  /** @throws {RangeError} when the file is not the KV it should be, in the end too: take nothing before */
  readParked(session: Session, parked: ParkedKv): AsyncIterable<Uint8Array>;
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
  readonly #coming = { warm: 0, disk: 0 };

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
   * Keeps KV of a session that the caller holds and whose cache it gives up next, in memory if there is room, else on
   * disk.
   * @param most bytes that the parts take
   * @returns whether it is kept
   * @throws whatever `parts` throw
   */
  async keep(
    session: Session,
    parts: KvParts,
    { most, inMemory }: { most: number; inMemory: boolean },
  ): Promise<boolean> {
    const tokens = session.kv.ids.length;
    if (inMemory && await this.#keepInMemory(session, tokens, parts, most)) return true;
    return await this.#keepOnDisk(session, tokens, parts, most);
  }

  /** Moves what is in host memory to disk, if there is room: a copy for the next start. The caller holds the session. */
  async moveToDisk(session: Session): Promise<boolean> {
    const { data, tokens, byteLength } = session.kv.parked!;
    session.kv.parked = undefined;
    return await this.#keepOnDisk(session, tokens, slices(data!), byteLength);
  }

  /**
   * The bytes that a session has parked. They stay.
   * @throws when the file cannot be read
   * @throws {RangeError} when they are not the bytes that were parked, in the end too: take nothing before
   */
  read(session: Session): KvParts {
    const parked = session.kv.parked!;
    return parked.data ? slices(parked.data) : this.#files!.readParked(session, parked);
  }

  /** Takes over what is in a session's file, if the budget has room for it; else the file goes. */
  adopt(session: Session, parked: ParkedKv): void {
    if (!this.#makeDiskRoom(session, parked.byteLength)) return this.#removeFile(session);
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

  async #keepInMemory(session: Session, tokens: number, parts: KvParts, bytes: number): Promise<boolean> {
    if (bytes > this.warmBudgetBytes) return false;
    while (this.warmBytes + this.#coming.warm + bytes > this.warmBudgetBytes) {
      const idle = this.#members.takeIdle(({ kv }) => kv.state === "warm", session);
      if (!idle) return false;
      const kept = await this.moveToDisk(idle[0]);
      this.#letGo(idle, kept);
    }
    // In the same moment in which there is room for it: others may be on their way out as well.
    return await this.#promised("warm", bytes, async () => {
      const data = await joinParts(parts, bytes);
      session.kv.parked = { tokens, byteLength: data.byteLength, data };
    });
  }

  async #keepOnDisk(session: Session, tokens: number, parts: KvParts, bytes: number): Promise<boolean> {
    const files = this.#files;
    if (!files || session.name === undefined || !this.#makeDiskRoom(session, bytes)) return false;
    try {
      return await this.#promised("disk", bytes, async () => {
        session.kv.parked = await files.writeParked(session, tokens, parts);
      });
    } catch {
      this.#removeFile(session);
      return false;
    }
  }

  /** Drops what is on disk of sessions that were used less lately. @returns whether there is room then */
  #makeDiskRoom(session: Session, bytes: number): boolean {
    if (bytes > this.diskBudgetBytes) return false;
    while (this.diskBytes + this.#coming.disk + bytes > this.diskBudgetBytes) {
      const idle = this.#members.takeIdle(({ kv }) => kv.state === "parked", session);
      if (!idle) return false;
      this.#letGo(idle, false);
    }
    return true;
  }

  /** Counts bytes while they are on their way, so that two at once do not both find the room. */
  async #promised(where: "warm" | "disk", bytes: number, work: () => Promise<void>): Promise<true> {
    this.#coming[where] += bytes;
    try {
      await work();
      return true;
    } finally {
      this.#coming[where] -= bytes;
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
