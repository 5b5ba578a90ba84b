/**
 * Files that belong to the program, by their path in the repository. In a page `runtime/browser/assets.ts` takes the
 * place of this module: there they lie beside the bundle.
 */
import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

const ROOT = new URL("../../", import.meta.url);

export const assetUrl = (path: string): URL => new URL(path, ROOT);

export const readAsset = (path: string): Promise<Uint8Array<ArrayBuffer>> => readFile(assetUrl(path));

/** At once: not for a page itself, only for its threads. */
export const readAssetText = (path: string): string => readFileSync(assetUrl(path), "utf8");
