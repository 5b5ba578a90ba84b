import { createHash } from "node:crypto";

/** One file of a model folder. */
export interface ManifestFile {
  /** Relative to the folder, with `/`. */
  path: string;
  /** Bytes. */
  size: number;
  /** Lower-case hex. */
  sha256: string;
}

/** `manifest.json`: what a complete model folder holds, and what it was made from. */
export interface Manifest {
  name: string;
  license: string;
  source: { package: string; file: string; size: number; sha256: string };
  /** Every file but the manifest itself, by path. */
  files: ManifestFile[];
}

/** Lower-case hex sha256. */
export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** Entries for `files`, sorted by path. */
export function manifestFiles(files: ReadonlyMap<string, Uint8Array>): ManifestFile[] {
  return [...files.keys()].sort().map((path) => {
    const bytes = files.get(path)!;
    return { path, size: bytes.length, sha256: sha256(bytes) };
  });
}
