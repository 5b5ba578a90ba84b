import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { getHFHubCachePath, HUB_URL } from "@huggingface/hub";

/** Which hub, as whom, and where its files are kept. */
export interface HubSettings {
  /** Base URL, without a slash at its end. */
  endpoint: string;
  token: string | undefined;
  /** The cache that huggingface_hub shares. Absolute. */
  cacheDir: string;
}

/**
 * Reads `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login` writes), and `HF_HUB_CACHE` or `HF_HOME`, as
 * huggingface_hub does.
 * https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
 * @throws {RangeError} when `HF_ENDPOINT` is no URL
 */
export function readHubSettings(): HubSettings {
  const { env } = process;
  const endpoint = (env.HF_ENDPOINT?.trim() || HUB_URL).replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
    throw new RangeError(`Cannot use HF_ENDPOINT="${endpoint}": wanted a URL that begins with http:// or https://`);
  }
  return { endpoint, token: env.HF_TOKEN?.trim() || savedToken(), cacheDir: resolve(getHFHubCachePath()) };
}

function savedToken(): string | undefined {
  const { env } = process;
  const home = env.HF_HOME ?? join(env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface");
  try {
    return readFileSync(env.HF_TOKEN_PATH ?? join(home, "token"), "utf8").trim() || undefined;
  } catch {
    return undefined;
  }
}
