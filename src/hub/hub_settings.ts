import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";

/** Which hub, as whom, and where its files are kept. */
export interface HubSettings {
  /** Base URL, without a slash at its end. */
  endpoint: string;
  token: string | undefined;
  /** The cache that huggingface_hub shares. Absolute. */
  cacheDir: string;
}

const HUB_URL = "https://huggingface.co";

/**
 * Reads `HF_ENDPOINT`, `HF_TOKEN` (or the file that `hf auth login` writes), and `HF_HUB_CACHE` or `HF_HOME`, as
 * huggingface_hub does: `~` and variables in a path are expanded, since no shell has seen those of a service or an
 * `.env` file. An empty variable counts as absent.
 * https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables
 * @throws {RangeError} when `HF_ENDPOINT` is no URL, or has a user or password in it, which no request may have
 */
export function readHubSettings(): HubSettings {
  const { env } = process;
  const endpoint = (env.HF_ENDPOINT?.trim() || HUB_URL).replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
    throw new RangeError(`Cannot use HF_ENDPOINT="${endpoint}": wanted a URL that begins with http:// or https://`);
  }
  const { username, password, host } = new URL(endpoint);
  if (username || password) {
    throw new RangeError(`Cannot use HF_ENDPOINT of ${host}: it has a user or password, wanted HF_TOKEN for that`);
  }
  const cacheDir = folder("HF_HUB_CACHE") ?? folder("HUGGINGFACE_HUB_CACHE") ?? join(home(), "hub");
  return { endpoint, token: env.HF_TOKEN?.trim() || savedToken(), cacheDir: resolve(cacheDir) };
}

const home = (): string =>
  folder("HF_HOME") ?? join(folder("XDG_CACHE_HOME") ?? join(homedir(), ".cache"), "huggingface");

function savedToken(): string | undefined {
  try {
    return readFileSync(folder("HF_TOKEN_PATH") ?? join(home(), "token"), "utf8").trim() || undefined;
  } catch {
    return undefined;
  }
}

/** The path that a variable has, expanded as Python's `expanduser` and `expandvars` do. */
function folder(name: string): string | undefined {
  const { env } = process;
  return env[name]?.trim().replace(/^~(?=\/|$)/, () => homedir())
    .replace(/\$(?:(\w+)|\{(\w+)\})/g, (whole, plain, braced) => env[plain ?? braced] ?? whole) || undefined;
}
