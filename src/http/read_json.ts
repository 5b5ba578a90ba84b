import type { Context } from "hono";
import { InvalidRequestError } from "../errors.ts";
import type { AppEnv } from "./tenants.ts";

/** Who asks, as far as it is not in the body. */
export interface Caller {
  tenant: string;
  /** The `X-Session-Id` header, used when the body names no session. */
  sessionId: string | undefined;
}

export const callerOf = (c: Context<AppEnv>): Caller => ({
  tenant: c.get("tenant"),
  sessionId: c.req.header("x-session-id"),
});

/**
 * The JSON body of a request.
 * @throws {InvalidRequestError} when it is not JSON
 */
export async function readJson({ req }: Context<AppEnv>): Promise<unknown> {
  const text = await req.text();
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new InvalidRequestError(`Cannot read the body: ${(cause as Error).message}`, null, "invalid_json", { cause });
  }
}
