/** What `node:path` is to paths, for URLs without query: names in them are encoded, as names of files are not. */

export const sep = "/";

/** A name below a folder; `..` leads up, and whatever else is in a name is one. */
export function join(folder: string, ...names: readonly string[]): string {
  const parts = names.flatMap((name) => name.split("/")).map(encodeURIComponent);
  return new URL(`./${parts.join("/")}`, `${folder}/`).href;
}

export const resolve = join;

export const dirname = (url: string): string => url.slice(0, url.lastIndexOf("/"));

export const basename = (url: string): string => decodeURIComponent(url.slice(url.lastIndexOf("/") + 1));

/** Of a name that is to be below a folder. */
export const isAbsolute = (name: string): boolean => name.startsWith("/");

export const insideFolder = (folder: string, url: string): boolean =>
  url.startsWith(`${folder}/`) && url.length > folder.length + 1;

/** Where a link leads is the server's matter. */
export const realPath = (url: string): string => url;
