import { z } from "zod";
import { DownloadError } from "../errors.ts";
import { hubFetch, type HubFetchOptions } from "./hub_fetch.ts";
import { checkHubPath } from "./hub_path.ts";
import type { HubSettings } from "./hub_settings.ts";
import { printable } from "./printable.ts";
import type { RepoName } from "./repo_name.ts";

/** One file of a model, as the hub announces it. */
export interface RemoteFile {
  /** Relative to the model's root, with `/`; checked. */
  path: string;
  /** Bytes. */
  size: number;
  /** Lower-case hex: SHA-256 of a large file's bytes, else git's SHA-1. Names the file's blob in the cache. */
  id: string;
}

/** What a revision is now. */
export interface RemoteRevision {
  commit: string;
  files: RemoteFile[];
}

/** A commit, or git's id of a file. */
const sha1 = z.string().regex(/^[0-9a-f]{40}$/);
const commitSchema = z.object({ sha: sha1 });
const fileSchema = z.object({
  path: z.string().transform(checkHubPath),
  size: z.int().nonnegative(),
  oid: sha1,
  lfs: z.object({ oid: z.string().regex(/^[0-9a-f]{64}$/), size: z.int().nonnegative() }).nullish(),
}).transform(({ path, size, oid, lfs }): RemoteFile => ({ path, size: lfs?.size ?? size, id: lfs?.oid ?? oid }));

/** Options of {@linkcode listRepoFiles}. */
export interface ListOptions extends HubFetchOptions {
  /** How long a connection may be silent, in milliseconds. @default 30000 */
  stallMs?: number;
  /** How long one answer of the listing may take, in milliseconds. @default 120000 */
  pageMs?: number;
}

/** More than any model has, folders counted too. */
const MAX_ENTRIES = 20_000;
/** A hub gives 1,000 entries at once. */
const MAX_PAGES = 100;
/** Of 1,000 entries with the longest paths. */
const MAX_PAGE_BYTES = 8 * 2 ** 20;

/**
 * Asks the hub which commit a revision is and which files it has.
 * @throws {DownloadError} saying what to do
 */
export async function listRepoFiles(
  { name, revision }: RepoName,
  settings: HubSettings,
  options: ListOptions = {},
): Promise<RemoteRevision> {
  // Here, because a server that has its model need not wait for it.
  const { HubApiError, listFiles, modelInfo } = await import("@huggingface/hub");
  const { stallMs = 30_000, pageMs = 120_000 } = options;
  const pages = countedPages(
    name,
    hubFetch(settings, options, { maxBytes: MAX_PAGE_BYTES, stallMs, limitMs: pageMs }),
  );
  const hub = { hubUrl: settings.endpoint, fetch: pages };
  try {
    const info = await modelInfo({ name, revision, additionalFields: ["sha"], ...hub });
    const { sha: commit } = commitSchema.parse(info);
    const files = new Map<string, RemoteFile>();
    let entries = 0;
    for await (const entry of listFiles({ repo: name, revision: commit, recursive: true, ...hub })) {
      if (++entries > MAX_ENTRIES) {
        throw new DownloadError(`Cannot list ${name}: it has more than ${MAX_ENTRIES} files and folders`);
      }
      if (entry.type !== "file") continue;
      const file = fileSchema.parse(entry);
      if (files.has(file.path)) throw new DownloadError(`Cannot list ${name}: it has ${file.path} twice`);
      files.set(file.path, file);
    }
    return { commit, files: [...files.values()] };
  } catch (cause) {
    if (cause instanceof HubApiError) throw refused(`${name}@${revision}`, cause.statusCode, cause);
    // The hub's client takes for granted what JSON says: `null` in place of a page or an entry is a TypeError of its own.
    if (cause instanceof z.ZodError || cause instanceof SyntaxError || cause instanceof TypeError) {
      const what = cause instanceof z.ZodError ? z.prettifyError(cause) : printable(cause.message);
      throw new DownloadError(`Cannot use what the hub says of ${name}: ${what}`, { cause });
    }
    throw cause;
  }
}

/** The same `fetch`, for as many answers as a listing has. Each names the next one: that need not end. */
function countedPages(name: string, fetch: typeof globalThis.fetch): typeof globalThis.fetch {
  let pages = 0;
  const counted = (input: RequestInfo | URL, init?: RequestInit) => {
    if (++pages > MAX_PAGES) throw new DownloadError(`Cannot list ${name}: it has more than ${MAX_PAGES} pages`);
    return fetch(input, init);
  };
  return counted as typeof globalThis.fetch;
}

/** The error for a status that says no. */
export function refused(what: string, status: number, cause?: unknown): DownloadError {
  const todo: Record<number, string> = {
    401: "no such model, or it needs a token: set HF_TOKEN",
    403: "the token may not read it: accept the model's terms on its page, or use another HF_TOKEN",
    404: "no such model, revision or file",
  };
  return new DownloadError(`Cannot get ${what}: the hub answered ${status}, ${todo[status] ?? "wanted 200"}`, {
    cause,
  });
}
