import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";
import { bearerAuth } from "hono/bearer-auth";
import { DEFAULT_TENANT } from "../session/session.ts";

/** What every request carries once it passed the guards. */
export interface AppEnv {
  Variables: {
    /** Whose sessions and streams it sees. */
    tenant: string;
  };
}

/** A key and whose it is. A tenant may have several, so that one can be replaced. */
export interface TenantKey {
  tenant: string;
  key: string;
}

/** Everybody who reaches this server is one tenant. */
export function oneTenant(): MiddlewareHandler<AppEnv> {
  return async (c, next) => {
    c.set("tenant", DEFAULT_TENANT);
    await next();
  };
}

/** Refuses requests without one of the keys; the key says which tenant it is. */
export function requireKey(keys: readonly TenantKey[]): MiddlewareHandler<AppEnv> {
  const known = keys.map(({ tenant, key }) => ({ tenant, digest: sha256(key) }));
  const refused = (message: string) => ({
    error: { message, type: "invalid_request_error", param: null, code: "invalid_api_key" },
  });
  return bearerAuth({
    verifyToken: (token, c) => {
      const digest = sha256(token);
      // Every key is compared, and whole, so that time says nothing of any of them.
      const found = known.filter((one) => timingSafeEqual(one.digest, digest));
      if (found[0]) c.set("tenant", found[0].tenant);
      return found.length > 0;
    },
    noAuthenticationHeader: { message: refused("Cannot serve without a key: send Authorization: Bearer <key>") },
    invalidAuthenticationHeader: { message: refused("Cannot read the Authorization header: wanted Bearer <key>") },
    invalidToken: { message: refused("Cannot accept this key") },
  });
}

const sha256 = (text: string) => createHash("sha256").update(text).digest();
