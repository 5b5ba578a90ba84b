import { createHmac, randomBytes } from "node:crypto";
import { chmod, mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { StorageError } from "../errors.ts";
import type { KvParts } from "../kv/kv_parts.ts";
import {
  appendToFile,
  cutFile,
  PRIVATE_FILE,
  PRIVATE_FOLDER,
  removeFiles,
  replaceFile,
  syncFolder,
} from "./durable_file.ts";
import type { FolderLock } from "./folder_lock.ts";
import { hashIds, readKvFile, readKvHeader, writeKvFile } from "./kv_file.ts";
import type { KvFiles } from "./parked_store.ts";
import { Session, type SessionName } from "./session.ts";
import type { SessionJournal } from "./session_journal.ts";
import type { ParkedKv } from "./session_kv.ts";
import { decodeLog, encodeLog, encodeRecord, type LogHeader, logRecord } from "./session_log.ts";
import { identityMismatch, type ModelIdentity } from "./stored_schema.ts";
import type { TranscriptDelta } from "./transcript.ts";

/** A log is written anew when it is so many times what its transcript takes, and not tiny. */
const BLOAT = 4;
const SMALL_LOG_BYTES = 64 * 1024;

/** What was in the folder when it was opened, least recently used first. */
export interface RecoveredSessions {
  sessions: { session: Session; parked: ParkedKv | undefined; lastAt: number }[];
  /** Files whose last record was not whole, and was cut off: nobody was told of it. */
  cut: number;
  /** Files that stay where they are, and why. */
  unreadable: { key: string; reason: string }[];
}

interface LogSize {
  /** Bytes of the file that count. */
  bytes: number;
  /** Bytes of it when it was last written whole. */
  wholeBytes: number;
}

/**
 * Sessions in a folder, a log each, and parked KV beside them. One at a time on a folder. What concerns one session happens
 * in order; different sessions do not wait for each other.
 */
export class SessionFiles implements SessionJournal, KvFiles, Disposable {
  readonly recovered: RecoveredSessions = { sessions: [], cut: 0, unreadable: [] };
  readonly #folder: string;
  readonly #secret: Uint8Array;
  readonly #model: ModelIdentity;
  readonly #variant: string;
  readonly #lock: FolderLock | undefined;
  readonly #sizes = new Map<string, LogSize>();
  readonly #unreadable = new Map<string, string>();
  /** Keys of files that the disk refused to delete. */
  readonly #undeleted = new Set<string>();
  readonly #tails = new Map<string, Promise<unknown>>();

  /**
   * Opens a folder, makes it where it is not, and reads what is there.
   * @param variant of the backend's arithmetic: parked KV of another is removed
   * @param lock of `dataDir`; it goes with the files
   * @throws {StorageError} when the folder cannot be used
   */
  static async open(
    dataDir: string,
    model: ModelIdentity,
    variant: string,
    lock?: FolderLock,
  ): Promise<SessionFiles> {
    try {
      // What ids mean is the model's, so each model has a folder of its own.
      const folder = join(dataDir, `sessions-${model.model.slice(0, 16)}`);
      for (const path of [dataDir, folder]) {
        await mkdir(path, { recursive: true, mode: PRIVATE_FOLDER });
        await chmod(path, PRIVATE_FOLDER);
      }
      const files = new SessionFiles(folder, await readSecret(join(dataDir, "secret")), model, variant, lock);
      await files.#recover();
      return files;
    } catch (cause) {
      throw storageError(`open ${dataDir}`, cause);
    }
  }

  private constructor(
    folder: string,
    secret: Uint8Array,
    model: ModelIdentity,
    variant: string,
    lock: FolderLock | undefined,
  ) {
    this.#folder = folder;
    this.#secret = secret;
    this.#model = model;
    this.#variant = variant;
    this.#lock = lock;
  }

  /** Lets another process have the folder. */
  [Symbol.dispose](): void {
    this.#lock?.[Symbol.dispose]();
  }

  key({ tenant, id }: SessionName): string {
    return createHmac("sha256", this.#secret).update(JSON.stringify([tenant, id])).digest("hex");
  }

  async append(session: Session, delta: TranscriptDelta, ttlMs: number | undefined): Promise<void> {
    await this.#inOrder(session.key, async () => {
      // Deleted while this waited: its file must not come back.
      if (session.closed) return;
      const path = this.#log(session.key);
      const record = logRecord(delta, ttlMs);
      const size = this.#sizes.get(session.key);
      try {
        if (size && size.bytes < SMALL_LOG_BYTES + BLOAT * size.wholeBytes) {
          const bytes = encodeRecord(record);
          await appendToFile(path, size.bytes, bytes);
          size.bytes += bytes.length;
        } else {
          const whole = logRecord(session.transcript.snapshot(), ttlMs);
          const bytes = encodeLog(this.#header(session), size ? [whole, record] : [record]);
          await replaceFile(path, [bytes]);
          this.#sizes.set(session.key, { bytes: bytes.length, wholeBytes: bytes.length });
        }
      } catch (cause) {
        // A new file may have its name already, and nobody is told of the session.
        if (!size) await this.#remove(session.key).catch(() => {});
        throw storageError("keep the turn", cause);
      }
    });
  }

  async remove(key: string): Promise<void> {
    await this.#inOrder(key, () => this.#remove(key));
  }

  unreadable(key: string): string | undefined {
    return this.#unreadable.get(key);
  }

  async discard(key: string): Promise<boolean> {
    // In its place: what expired may still be on its way out, and a new session's first turn comes after.
    return await this.#inOrder(key, async () => {
      const was = this.#unreadable.has(key) || this.#undeleted.has(key);
      if (was) await this.#remove(key);
      return was;
    });
  }

  async writeParked(session: Session, tokens: number, parts: KvParts): Promise<ParkedKv> {
    const idsSha256 = hashIds(session.kv.ids.slice(0, tokens));
    return await this.#inOrder(session.key, async () => {
      if (session.closed) throw new StorageError("Cannot park KV: the session was deleted");
      const header = { variant: this.#variant, tokens, idsSha256 };
      return { tokens, idsSha256, byteLength: await writeKvFile(this.#kv(session.key), header, parts) };
    });
  }

  async *readParked({ key }: Session, { idsSha256 }: ParkedKv): AsyncGenerator<Uint8Array> {
    await this.#tails.get(key);
    yield* readKvFile(this.#kv(key), (header) => header.idsSha256 === idsSha256 && header.variant === this.#variant);
  }

  async removeParked(session: Session): Promise<void> {
    await this.#inOrder(session.key, () => this.#removeKv(session.key));
  }

  async #recover(): Promise<void> {
    const names = await readdir(this.#folder);
    for (const name of names.filter((name) => name.endsWith(".new"))) await removeFiles(join(this.#folder, name));
    for (const name of names) if (name.endsWith(".log")) await this.#recoverOne(name.slice(0, -".log".length));
    this.recovered.sessions.sort((a, b) => a.lastAt - b.lastAt);
    for (const name of names) {
      const key = name.slice(0, -".kv".length);
      if (name.endsWith(".kv") && !this.#sizes.has(key)) await removeFiles(this.#kv(key));
    }
  }

  async #recoverOne(key: string): Promise<void> {
    const bytes = new Uint8Array(await readFile(this.#log(key)));
    const log = decodeLog(bytes);
    const reason = "unreadable" in log ? log.unreadable : this.#refusal(log.header);
    if (reason !== undefined || "unreadable" in log) {
      this.#unreadable.set(key, reason!);
      this.recovered.unreadable.push({ key, reason: reason! });
      return;
    }
    const { header, transcript, last, wholeBytes } = log;
    if (wholeBytes < bytes.length) {
      await cutFile(this.#log(key), wholeBytes);
      this.recovered.cut++;
    }
    this.#sizes.set(key, { bytes: wholeBytes, wholeBytes });
    const { tenant, id, createdAt } = header;
    const session = new Session({ tenant, id }, { key, createdAt });
    session.transcript.apply(transcript.snapshot());
    session.ttlMs = last.ttlMs;
    this.recovered.sessions.push({ session, parked: await this.#recoverKv(session), lastAt: last.at });
  }

  async #recoverKv({ key, transcript }: Session): Promise<ParkedKv | undefined> {
    const { header, byteLength } = await readKvHeader(this.#kv(key)).catch(() => undefined) ?? {};
    if (
      header && byteLength && header.variant === this.#variant && header.tokens <= transcript.ids.length &&
      header.idsSha256 === hashIds(transcript.ids.slice(0, header.tokens))
    ) return { tokens: header.tokens, idsSha256: header.idsSha256, byteLength };
    await this.#removeKv(key);
    return undefined;
  }

  #refusal({ model }: LogHeader): string | undefined {
    const other = identityMismatch(model, this.#model);
    return other && `the file was made with another ${other}`;
  }

  #header({ name, createdAt }: Session): LogHeader {
    return { ...name!, createdAt, model: this.#model };
  }

  async #remove(key: string): Promise<void> {
    this.#sizes.delete(key);
    this.#unreadable.delete(key);
    const again = this.#undeleted.has(key);
    this.#undeleted.add(key);
    await this.#removing(async () => {
      await removeFiles(this.#log(key), this.#kv(key));
      // The files may have gone, and only this been refused.
      if (again) await syncFolder(this.#folder);
    });
    this.#undeleted.delete(key);
  }

  async #removeKv(key: string): Promise<void> {
    await this.#removing(() => removeFiles(this.#kv(key)));
  }

  async #removing(work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
    } catch (cause) {
      throw storageError("delete the session", cause);
    }
  }

  #inOrder<T>(key: string, work: () => Promise<T>): Promise<T> {
    const result = (this.#tails.get(key) ?? Promise.resolve()).then(work);
    const tail = result.catch(() => {}).then(() => {
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    });
    this.#tails.set(key, tail);
    return result;
  }

  #log = (key: string) => join(this.#folder, `${key}.log`);
  #kv = (key: string) => join(this.#folder, `${key}.kv`);
}

/** The folder's secret, made at first use. */
async function readSecret(path: string): Promise<Uint8Array> {
  try {
    const secret = await readFile(path);
    if (secret.length === 32) return secret;
    throw new StorageError(`Cannot use ${path}: ${secret.length} bytes, wanted 32`);
  } catch (error) {
    if ((error as { code?: string }).code !== "ENOENT") throw error;
  }
  const secret = randomBytes(32);
  await replaceFile(path, [secret]);
  await chmod(path, PRIVATE_FILE);
  return secret;
}

function storageError(action: string, cause: unknown): StorageError {
  if (cause instanceof StorageError) return cause;
  return new StorageError(`Cannot ${action} on disk: ${(cause as Error).message}`, { cause });
}
