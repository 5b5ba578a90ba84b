import { mkdir, statfs } from "node:fs/promises";
import { DownloadError } from "../errors.ts";
import { formatBytes } from "./transfer_meter.ts";

/** Bytes that a process may still write below `folder`, which is made. */
export async function freeDiskBytes(folder: string): Promise<number> {
  await mkdir(folder, { recursive: true });
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** @throws {DownloadError} when `bytes` more do not fit below `folder` */
export function requireDisk(bytes: number, freeBytes: number, folder: string): void {
  if (bytes <= freeBytes) return;
  throw new DownloadError(
    `Cannot fetch ${formatBytes(bytes)} into ${folder}: ${formatBytes(freeBytes)} are free; ` +
      `make room, or set HF_HUB_CACHE to a folder on another disk`,
  );
}
