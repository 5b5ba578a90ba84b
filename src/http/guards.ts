import type { MiddlewareHandler } from "hono";
import { HTTPException } from "hono/http-exception";

/**
 * Refuses requests whose `Host` is not this machine: a page on another site that had its name resolve to
 * 127.0.0.1 (DNS rebinding) still sends its own name here.
 */
export function loopbackHostOnly(): MiddlewareHandler {
  return async (c, next) => {
    const host = c.req.header("host") ?? "";
    if (!/^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i.test(host)) {
      throw new HTTPException(403, {
        message:
          `Cannot serve host "${host}": without a key only this machine is served: set API_KEY and HOST, or apiKey of createApp()`,
      });
    }
    await next();
  };
}

/** POST bodies have to say that they are JSON: a form on another site cannot. */
export function jsonBodyOnly(): MiddlewareHandler {
  return async (c, next) => {
    const type = c.req.header("content-type") ?? "";
    if (c.req.method === "POST" && !/^application\/json\s*(;|$)/i.test(type)) {
      throw new HTTPException(415, {
        message: `Cannot read a body of type "${type}": send content-type: application/json`,
      });
    }
    await next();
  };
}
