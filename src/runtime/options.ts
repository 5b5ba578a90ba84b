import { z } from "zod";
import type { BackendChoice } from "../backend/select_backend.ts";
import type { UnsafeOptions } from "../backend/ort_webgpu/inference_worker.ts";
import type { ActivationType, KvType } from "../backend/simd/wasm_engine.ts";
import type { PromptLookupMode } from "../engine/draft_length.ts";
import type { TenantKey } from "../http/tenants.ts";
import { apiKey, parseApiKeys } from "./api_keys.ts";

/** What the environment can set. */
export interface ServerOptions {
  host: string;
  port: number;
  /** @default the CPU quota */
  threads: number | undefined;
  /** Folder under `models/`, path, or `owner/name[@revision]` of a hub. @default the bundled model */
  model: string | undefined;
  backend: BackendChoice;
  kv: KvType;
  activations: ActivationType;
  /** What the heap of `simd` can grow to. @default 4 GiB */
  maxHeapBytes: number | undefined;
  /** What `ort-webgpu` may do of what is not documented, or not checked. */
  webgpuUnsafe: UnsafeOptions;
  /** @default "auto" */
  promptLookup: PromptLookupMode;
  apiKey: string | undefined;
  /** Keys of tenants that do not see each other's sessions. */
  apiKeys: TenantKey[];
  /** Folder to keep sessions in. @default none: they are in memory only */
  dataDir: string | undefined;
  /** A JSON file of system prompts that tenants may share KV of. @default none */
  publicPromptsFile: string | undefined;
  /** Seals exported sessions. @default none: they are in the clear */
  sessionKey: string | undefined;
}

const text = z.string().trim().transform((value) => value || undefined).optional();
const integer = (min: number, max: number) =>
  z.coerce.number(`wanted an integer from ${min} to ${max}`).int().min(min).max(max);
const environment = z.object({
  HOST: text.default("127.0.0.1"),
  PORT: integer(0, 65535).default(8787),
  THREADS: integer(1, 64).optional(),
  MODEL: text,
  BACKEND: z.enum(["auto", "ort-webgpu", "simd", "ort-wasm"]).default("auto"),
  KV: z.enum(["f32", "int8"]).default("f32"),
  ACTIVATIONS: z.enum(["int8", "f32"]).default("int8"),
  MAX_HEAP_MIB: integer(8, 4096).optional(),
  WEBGPU_UNSAFE: z.string().transform((value) => value.split(",").map((item) => item.trim())).pipe(
    z.array(z.enum(["read", "unvalidated"])),
  ).default([]),
  PROMPT_LOOKUP: z.enum(["auto", "always", "off"]).default("auto"),
  API_KEY: text.pipe(apiKey.optional()),
  API_KEYS: text,
  DATA_DIR: text,
  PUBLIC_PROMPTS: text,
  SESSION_KEY: z.string().min(16, "wanted 16 characters or more, hard to guess").optional(),
});

/** Names of all variables that are read. */
export const VARIABLES: readonly string[] = Object.keys(environment.shape);

/** Not to be seen in a message. */
const SECRET: ReadonlySet<string> = new Set(["API_KEY", "API_KEYS", "SESSION_KEY"]);

/**
 * Reads {@linkcode VARIABLES}; README says what each is for. An empty variable counts as absent.
 * @throws {RangeError} one sentence that names the variable
 */
export function parseEnvironment(env: Readonly<Record<string, string | undefined>>): ServerOptions {
  const present = Object.fromEntries(Object.entries(env).filter(([, value]) => value?.trim()));
  const parsed = environment.safeParse(present);
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!;
    const name = String(path[0]);
    const shown = SECRET.has(name) ? "…" : present[name];
    throw new RangeError(`Cannot use ${name}="${shown}": ${message}`);
  }
  const { HOST, PORT, THREADS, MODEL, BACKEND, KV, ACTIVATIONS, PROMPT_LOOKUP, API_KEY, API_KEYS } = parsed.data;
  const { DATA_DIR, PUBLIC_PROMPTS, SESSION_KEY, WEBGPU_UNSAFE, MAX_HEAP_MIB } = parsed.data;
  const apiKeys = API_KEYS === undefined ? [] : parseApiKeys(API_KEYS);
  if (API_KEY && apiKeys.some(({ key }) => key === API_KEY)) {
    throw new RangeError(`Cannot use API_KEYS="…": it has the key that API_KEY has`);
  }
  if (!API_KEY && apiKeys.length === 0 && !isLoopback(HOST!)) {
    throw new RangeError(
      `Cannot listen on HOST="${HOST}" without a key: anybody who reaches it could use it; ` +
        `set API_KEY or API_KEYS, or leave HOST at 127.0.0.1`,
    );
  }
  return {
    host: HOST!,
    port: PORT,
    threads: THREADS,
    model: MODEL,
    backend: BACKEND,
    kv: KV,
    activations: ACTIVATIONS,
    maxHeapBytes: MAX_HEAP_MIB === undefined ? undefined : MAX_HEAP_MIB * 2 ** 20,
    webgpuUnsafe: { read: WEBGPU_UNSAFE.includes("read"), unvalidated: WEBGPU_UNSAFE.includes("unvalidated") },
    promptLookup: PROMPT_LOOKUP,
    apiKey: API_KEY,
    apiKeys,
    dataDir: DATA_DIR,
    publicPromptsFile: PUBLIC_PROMPTS,
    sessionKey: SESSION_KEY,
  };
}

const isLoopback = (host: string) => host === "localhost" || host === "::1" || /^127(\.\d{1,3}){3}$/.test(host);
