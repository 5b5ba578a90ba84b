import type { Hash } from "node:crypto";
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { DownloadError } from "../errors.ts";
import { lockPartial } from "./blob_lock.ts";
import { blobHash, hashFile } from "./blob_hash.ts";
import { type CacheLayout, sizeOf } from "./cache_layout.ts";
import { printable } from "./printable.ts";
import { refused, type RemoteFile } from "./repo_files.ts";

/** Options of {@linkcode downloadBlob}. */
export interface DownloadBlobOptions {
  /** Of {@linkcode hubFetch}. */
  fetch: typeof globalThis.fetch;
  /** Where the hub has the file. */
  url: string;
  /** Called with bytes that came, or were there before; less than 0 where some are fetched anew. */
  onBytes?: (count: number) => void;
  /** Connections in a row that may bring nothing. @default 5 */
  attempts?: number;
  /** Wait before the next connection, in milliseconds; doubles while nothing comes. @default 1000 */
  backoffMs?: number;
  /** How long a connection may be silent, in milliseconds. @default 30000 */
  stallMs?: number;
  signal?: AbortSignal;
}

/** A connection that ended early: the next one goes on from there. */
class Interrupted extends Error {}

/**
 * Fetches a file into its blob. What came stays in `<id>.incomplete`, and the next connection, process or day goes on
 * behind it. The blob gets its name when size and hash are what the hub announced, and never holds a byte more.
 * @throws {DownloadError} when the hub refuses, lies about the size, or the bytes are damaged
 */
export async function downloadBlob(file: RemoteFile, cache: CacheLayout, options: DownloadBlobOptions): Promise<void> {
  const partial = cache.partial(file.id);
  await mkdir(dirname(partial), { recursive: true });
  await using _lock = await lockPartial(partial, options.signal);
  if (await sizeOf(cache.blob(file.id)) === file.size) {
    // Another process has fetched it meanwhile.
    options.onBytes?.(file.size);
    return;
  }
  const keep = await usableBytes(partial, file.size);
  let hash = blobHash(file.id, file.size);
  await hashFile(hash, partial, keep, options.signal);
  options.onBytes?.(keep);
  const handle = await open(partial, keep > 0 ? "r+" : "w");
  try {
    const transfer = new Transfer(file, handle, hash, keep, options);
    await transfer.finish();
    if (!transfer.isIntact() && keep > 0) {
      // What an earlier process left may be to blame.
      hash = blobHash(file.id, file.size);
      options.onBytes?.(-file.size);
      await handle.truncate(0);
      const anew = new Transfer(file, handle, hash, 0, options);
      await anew.finish();
      await requireIntact(anew, partial, options);
    } else await requireIntact(transfer, partial, options);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(partial, cache.blob(file.id));
}

async function usableBytes(partial: string, size: number): Promise<number> {
  const there = await sizeOf(partial) ?? 0;
  return there <= size ? there : 0;
}

async function requireIntact(transfer: Transfer, partial: string, { onBytes }: DownloadBlobOptions): Promise<void> {
  if (transfer.isIntact()) return;
  await rm(partial, { force: true });
  onBytes?.(-transfer.file.size);
  const { path, id } = transfer.file;
  const kind = id.length === 64 ? "sha256" : "git's sha1";
  throw new DownloadError(`Cannot use ${path}: what came is damaged, ${kind} ${transfer.digest()}, wanted ${id}`);
}

/** The bytes of one file, over as many connections as it takes. */
class Transfer {
  #digest: string | undefined;

  constructor(
    readonly file: RemoteFile,
    private readonly handle: FileHandle,
    private hash: Hash,
    private at: number,
    private readonly options: DownloadBlobOptions,
  ) {}

  async finish(): Promise<void> {
    const { attempts = 5, backoffMs = 1000, signal } = this.options;
    // Not where this connection began: a server without parts begins each one anew, and would never be given up on.
    let furthest = this.at;
    for (let fruitless = 0; this.at < this.file.size;) {
      try {
        await this.#connect();
      } catch (cause) {
        signal?.throwIfAborted();
        if (!(cause instanceof Interrupted)) throw cause;
        fruitless = this.at > furthest ? 0 : fruitless + 1;
        furthest = Math.max(furthest, this.at);
        if (fruitless >= attempts) {
          const { path, size } = this.file;
          throw new DownloadError(
            `Cannot get ${path}: ${cause.message} after ${this.at} of ${size} bytes; the same command goes on from there`,
            { cause },
          );
        }
        if (fruitless > 0) await sleep(backoffMs * 2 ** (fruitless - 1), undefined, { signal });
      }
    }
  }

  digest = (): string => this.#digest ??= this.hash.digest("hex");
  isIntact = (): boolean => this.digest() === this.file.id;

  /** One connection, from where the last one ended. */
  async #connect(): Promise<void> {
    const { fetch, url, signal, stallMs = 30_000 } = this.options;
    const silence = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const listen = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), stallMs);
    };
    const response = await fetch(url, {
      headers: this.at > 0 ? { range: `bytes=${this.at}-` } : {},
      signal: AbortSignal.any([silence.signal, ...(signal ? [signal] : [])]),
    });
    const reader = response.body?.getReader();
    try {
      await this.#accept(response);
      listen();
      for (let part = await this.#read(reader); part; part = await this.#read(reader)) {
        listen();
        await this.#append(part);
      }
    } finally {
      clearTimeout(timer);
      await reader?.cancel().catch(() => {});
    }
    if (this.at < this.file.size) throw new Interrupted("the connection ended");
  }

  async #read(reader: ReadableStreamDefaultReader<Uint8Array> | undefined): Promise<Uint8Array | undefined> {
    try {
      return (await reader?.read())?.value;
    } catch (cause) {
      throw new Interrupted(`the connection broke (${(cause as Error).message})`, { cause });
    }
  }

  /** Checks that the body is the part that was asked for; starts over where the server has no parts. */
  async #accept({ status, headers }: Response): Promise<void> {
    const { path, size } = this.file;
    if (status !== 200 && status !== 206) throw refused(path, status);
    if (status === 206) {
      const range = headers.get("content-range");
      const [, from, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(range ?? "") ?? [];
      if (Number(from) !== this.at || Number(total) !== size) {
        throw new DownloadError(
          `Cannot get ${path}: the hub sends "${printable(range ?? "")}", wanted ${size} bytes from ${this.at} on`,
        );
      }
    } else if (this.at > 0) await this.#startOver();
    const length = headers.get("content-length");
    if (length !== null && Number(length) > size - this.at) throw this.#tooLong(Number(length) + this.at);
  }

  async #startOver(): Promise<void> {
    this.options.onBytes?.(-this.at);
    await this.handle.truncate(0);
    this.at = 0;
    this.hash = blobHash(this.file.id, this.file.size);
  }

  async #append(part: Uint8Array): Promise<void> {
    if (this.at + part.length > this.file.size) throw this.#tooLong(this.at + part.length);
    for (let done = 0; done < part.length;) {
      const { bytesWritten } = await this.handle.write(part, done, part.length - done, this.at + done);
      done += bytesWritten;
    }
    this.hash.update(part);
    this.at += part.length;
    this.options.onBytes?.(part.length);
  }

  #tooLong(bytes: number): DownloadError {
    const { path, size } = this.file;
    return new DownloadError(`Cannot use ${path}: the hub sends ${bytes} bytes or more, it announced ${size}`);
  }
}
