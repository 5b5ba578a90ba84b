import { z } from "zod";
import type { TenantKey } from "../http/tenants.ts";

// What can stand in an Authorization header: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
const KEYS = "wanted keys of letters, digits and -._~+/";
/** One key. */
export const apiKey = z.string().regex(/^[\w.~+/-]+=*$/, KEYS);
const keys = z.union([apiKey, z.array(apiKey).min(1)], KEYS);
const tenants = z.record(z.string(), keys).refine(
  (byName) => Object.keys(byName).every((name) => /^[\w.-]{1,64}$/.test(name)),
  "wanted names of at most 64 letters, digits and -._",
);

/**
 * Keys by tenant: `name:key,name:key`, or JSON `{"name": "key"}` where a list gives a tenant several.
 * @throws {RangeError} one sentence without a key in it
 */
export function parseApiKeys(text: string): TenantKey[] {
  const parsed = tenants.safeParse(text.trimStart().startsWith("{") ? fromJson(text) : fromPairs(text));
  if (!parsed.success) throw refused(parsed.error.issues.map(({ message }) => message).at(0)!);
  const keys = Object.entries(parsed.data).flatMap(([tenant, keys]) => [keys].flat().map((key) => ({ tenant, key })));
  if (keys.length === 0) throw refused("wanted at least one");
  if (new Set(keys.map(({ key }) => key)).size < keys.length) throw refused("a key is there twice");
  return keys;
}

function fromJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw refused("it is not JSON");
  }
}

function fromPairs(text: string): Record<string, string[]> {
  const keys = Object.create(null) as Record<string, string[]>;
  for (const pair of text.split(",").map((one) => one.trim()).filter(Boolean)) {
    const colon = pair.indexOf(":");
    if (colon < 0) throw refused("wanted name:key,name:key or JSON");
    (keys[pair.slice(0, colon).trim()] ??= []).push(pair.slice(colon + 1).trim());
  }
  return keys;
}

const refused = (why: string) => new RangeError(`Cannot use API_KEYS="…": ${why}`);
