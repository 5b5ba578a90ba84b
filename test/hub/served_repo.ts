import assert from "node:assert/strict";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach } from "node:test";
import { DownloadError } from "../../src/errors.ts";
import { CacheLayout } from "../../src/hub/cache_layout.ts";
import { pullModel, type PullOptions } from "../../src/hub/pull_model.ts";
import { parseRepoName } from "../../src/hub/repo_name.ts";
import { LocalHub } from "./local_hub.ts";

export const NAME = "some-owner/Tiny-1.0_onnx";
export const WEIGHTS = "onnx/model_q4.onnx_data";

/** Bytes that differ from place to place. */
export const filler = (length: number, seed: number) =>
  Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * seed) & 255);
export const text = (content: string) => new TextEncoder().encode(content);
export const files = new Map<string, Uint8Array>([
  ["config.json", text("{}")],
  ["tokenizer.json", filler(5000, 1)],
  ["tokenizer_config.json", text('{"a":1}')],
  ["README.md", filler(9000, 2)],
  ["onnx/model_q4.onnx", filler(3000, 3)],
  [WEIGHTS, filler(300_000, 4)],
  ["onnx/model_q4f16.onnx", filler(3000, 5)],
  ["onnx/model_q4f16.onnx_data", filler(200_000, 6)],
]);

/** A hub that has {@linkcode files}, and an empty cache, new ones for each test of a file that calls {@linkcode useHub}. */
export let hub: LocalHub;
export let cacheDir: string;

export function useHub(): void {
  beforeEach(async () => {
    hub = await LocalHub.start(NAME, files);
    cacheDir = await mkdtemp(join(tmpdir(), "hearth-hub-"));
  });
  afterEach(async () => {
    await hub[Symbol.asyncDispose]();
    await rm(cacheDir, { recursive: true, force: true });
  });
}

export const cache = () => new CacheLayout(cacheDir, NAME);
export const pull = (options: PullOptions = {}, token?: string, name = NAME) =>
  pullModel(parseRepoName(name), { endpoint: hub.url, token, cacheDir }, { backoffMs: 1, attempts: 3, ...options });
export const rejectsSaying = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error) => error instanceof DownloadError && message.test(error.message));

/** The id of the weights, which names their blob. */
export async function weightsId(): Promise<string> {
  const { createHash } = await import("node:crypto");
  return createHash("sha256").update(files.get(WEIGHTS)!).digest("hex");
}
export const blobs = async () => (await readdir(join(cache().root, "blobs")).catch(() => [])).sort();
