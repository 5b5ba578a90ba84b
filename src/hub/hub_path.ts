import { DownloadError } from "../errors.ts";

/** Names that open devices on Windows, whatever follows the first dot. */
const DEVICE = /^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)/i;
// deno-lint-ignore no-control-regex
const FORBIDDEN = /[\x00-\x1f\x7f\\:*?"<>|]/;

/**
 * Checks a file's path as a hub gave it, before it becomes a path of this machine: below the model's folder on every
 * system, and the same file on all of them.
 * @throws {DownloadError} when it has `..`, is absolute, or has a backslash, colon, control character or device name
 */
export function checkHubPath(path: string): string {
  const parts = path.split("/");
  const bad = path.length > 1000 || FORBIDDEN.test(path) ||
    parts.some((part) => part === "" || /^\.{1,2}$/.test(part) || /[. ]$/.test(part) || DEVICE.test(part));
  if (!bad) return path;
  throw new DownloadError(
    `Cannot use file ${JSON.stringify(path.slice(0, 200))} of the hub: wanted a plain relative path`,
  );
}
