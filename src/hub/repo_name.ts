import { InvalidRequestError } from "../errors.ts";

/** A model on a hub: `owner/name`, and which of its versions. */
export interface RepoName {
  /** `owner/name`. */
  name: string;
  /** Branch, tag or commit. */
  revision: string;
}

/** One part of a name, as hubs allow it: no leading dot, no "--", which separates parts in the cache's folder names. */
const PART = String.raw`(?!.*(?:--|\.\.))[A-Za-z0-9_][\w.-]{0,95}`;
const NAME = new RegExp(`^${PART}/${PART}$`);
const REVISION = /^(?!.*(?:\.\.|\/\/))[A-Za-z0-9_][\w./-]{0,199}(?<![./])$/;

/** Whether `text` may be `owner/name` or `owner/name@revision`. */
export const isRepoName = (text: string): boolean => NAME.test(text.split("@", 1)[0]!);

/**
 * Reads `owner/name[@revision]`. Both parts become folder names, so what could lead elsewhere is refused.
 * @param revision taken where the text has none
 * @throws {InvalidRequestError} when it is something else
 */
export function parseRepoName(text: string, revision = "main"): RepoName {
  const at = text.indexOf("@");
  const repo = { name: at < 0 ? text : text.slice(0, at), revision: at < 0 ? revision : text.slice(at + 1) };
  if (!NAME.test(repo.name)) {
    throw new InvalidRequestError(`Cannot use model name "${text}": wanted owner/name or owner/name@revision`);
  }
  if (!REVISION.test(repo.revision)) {
    throw new InvalidRequestError(`Cannot use revision "${repo.revision}": wanted a branch, a tag or a commit`);
  }
  return repo;
}
