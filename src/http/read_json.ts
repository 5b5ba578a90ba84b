import type { Context } from "hono";
import { InvalidRequestError } from "../errors.ts";
import { textOfHeader } from "./header_text.ts";
import type { AppEnv } from "./tenants.ts";

/** Who asks, as far as it is not in the body. */
export interface Caller {
  tenant: string;
  /** What the `X-Session-Id` header says, used when the body names no session. */
  sessionId: string | undefined;
}

/** @throws {InvalidRequestError} as `textOfHeader` */
export function callerOf(c: Context<AppEnv>): Caller {
  const header = c.req.header("x-session-id");
  return {
    tenant: c.get("tenant"),
    sessionId: header === undefined ? undefined : textOfHeader(header, "x-session-id"),
  };
}

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
