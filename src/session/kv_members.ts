import type { Session } from "./session.ts";
import type { Hold } from "./turn_lock.ts";

/** Sessions with KV anywhere, least recently used first, and what running turns among them were promised. */
export class KvMembers implements Iterable<Session> {
  readonly #all = new Set<Session>();
  readonly #reserved = new Map<Session, number>();

  [Symbol.iterator](): Iterator<Session> {
    return this.#all.values();
  }

  /** Makes a session the most recently used. */
  add(session: Session): void {
    this.#all.delete(session);
    this.#all.add(session);
  }

  /** Forgets a session, unless it is running. */
  delete(session: Session): void {
    if (!this.#reserved.has(session)) this.#all.delete(session);
  }

  /** Bytes of backend memory that a running session was promised; `undefined` for an idle one. */
  reserved(session: Session): number | undefined {
    return this.#reserved.get(session);
  }

  /** Bytes promised to all running sessions. */
  get reservedBytes(): number {
    return sum(this.#reserved.values());
  }

  reserve(session: Session, bytes: number): void {
    this.#reserved.set(session, bytes);
  }

  /** The session is idle again. */
  release(session: Session): void {
    this.#reserved.delete(session);
  }

  /**
   * The least recently used idle session that nobody holds, and a hold on it.
   * @param before one that only those used less lately are to make room for
   */
  takeIdle(wanted: (session: Session) => boolean, before?: Session): [Session, Hold] | undefined {
    for (const session of this.#all) {
      if (session === before) return undefined;
      const hold = this.#reserved.has(session) || !wanted(session) ? undefined : session.lock.tryWork();
      if (hold) return [session, hold];
    }
    return undefined;
  }
}

/** Adds up. */
export function sum(values: Iterable<number>): number {
  let total = 0;
  for (const value of values) total += value;
  return total;
}
