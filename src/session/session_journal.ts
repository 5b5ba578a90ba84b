import type { Session, SessionName } from "./session.ts";
import type { TranscriptDelta } from "./transcript.ts";

/** Keeps transcripts beyond the process. */
export interface SessionJournal {
  /** Key of a session, the same for as long as it is kept: says nothing of its name to who has not the secret. */
  key(name: SessionName): string;
  /**
   * Keeps a change: when it resolves, the change survives the process and the machine.
   * @param ttlMs lifetime of the session from now on, in milliseconds; the store's own when absent
   * @throws {StorageError} when it could not; what was kept before is
   */
  append(session: Session, delta: TranscriptDelta, ttlMs: number | undefined): Promise<void>;
  /**
   * Forgets a session for good, and its parked KV.
   * @param key of a session that is closed
   * @throws {StorageError} when the disk refuses: `discard` tries again
   */
  remove(key: string): Promise<void>;
  /** Why what is kept under a key cannot be read; `undefined` when it can, or there is nothing. */
  unreadable(key: string): string | undefined;
  /**
   * Forgets what cannot be read, or could not be removed before, and waits for removals that are under way.
   * @returns whether there was something
   * @throws {StorageError} when the disk refuses: ask again
   */
  discard(key: string): Promise<boolean>;
}
