import { DownloadError } from "../errors.ts";
import { printable, UNPRINTABLE } from "./printable.ts";

/** Names that open devices on Windows, whatever follows the first dot. */
const DEVICE = /^(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\.|$)/i;
const FORBIDDEN = /[\\:*?"<>|]/;

/**
 * Checks a file's path as a hub gave it, before it becomes a path of this machine: below the model's folder on every
 * system, and the same file on all of them.
 * @throws {DownloadError} when it has `..`, is absolute, or has a backslash, colon or device name, or a character that controls
 *   a terminal, turns the direction of text or is not seen
 */
export function checkHubPath(path: string): string {
  const parts = path.split("/");
  const bad = path.length > 1000 || FORBIDDEN.test(path) || UNPRINTABLE.test(path) ||
    parts.some((part) => part === "" || /^\.{1,2}$/.test(part) || /[. ]$/.test(part) || DEVICE.test(part));
  if (!bad) return path;
  throw new DownloadError(
    `Cannot use file "${printable(path.slice(0, 200))}" of the hub: wanted a plain relative path`,
  );
}
