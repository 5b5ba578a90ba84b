import { HubApiError, listFiles, modelInfo } from "@huggingface/hub";
import { z } from "zod";
import { DownloadError } from "../errors.ts";
import { checkHubPath } from "./hub_path.ts";
import type { HubSettings } from "./hub_settings.ts";
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

/** More than any model has. */
const MAX_FILES = 20_000;

/**
 * Asks the hub which commit a revision is and which files it has.
 * @param fetch of {@linkcode hubFetch}: it adds the token
 * @throws {DownloadError} saying what to do
 */
export async function listRepoFiles(
  { name, revision }: RepoName,
  { endpoint }: HubSettings,
  fetch: typeof globalThis.fetch,
): Promise<RemoteRevision> {
  try {
    const info = await modelInfo({ name, revision, additionalFields: ["sha"], hubUrl: endpoint, fetch });
    const { sha: commit } = commitSchema.parse(info);
    const files: RemoteFile[] = [];
    for await (const entry of listFiles({ repo: name, revision: commit, recursive: true, hubUrl: endpoint, fetch })) {
      if (entry.type !== "file") continue;
      if (files.length === MAX_FILES) {
        throw new DownloadError(`Cannot list ${name}: it has more than ${MAX_FILES} files`);
      }
      files.push(fileSchema.parse(entry));
    }
    return { commit, files };
  } catch (cause) {
    if (cause instanceof HubApiError) throw refused(`${name}@${revision}`, cause.statusCode, cause);
    if (cause instanceof z.ZodError || cause instanceof SyntaxError) {
      const what = cause instanceof z.ZodError ? z.prettifyError(cause) : cause.message;
      throw new DownloadError(`Cannot use what the hub says of ${name}: ${what}`, { cause });
    }
    throw cause;
  }
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
