import { Hono } from "hono";
import { HTTPException } from "hono/http-exception";
import { CapsuleError } from "../errors.ts";
import type { Answers } from "./answers.ts";
import { defined, parse } from "./parse.ts";
import { readBytes } from "./read_bytes.ts";
import { importQuery } from "./session_schema.ts";
import { sessionView } from "./session_view.ts";
import { locationOf } from "./sessions_route.ts";
import type { Service } from "./service.ts";
import type { AppEnv } from "./tenants.ts";

/** `POST /v1/sessions/import?id=…&replace=true`: a session out of a capsule, the body. */
export function sessionImportRoute(service: Service, answers: Answers): Hono<AppEnv> {
  return new Hono<AppEnv>().post("/v1/sessions/import", async (c) => {
    const type = c.req.header("content-type") ?? "";
    // As with JSON: a form on another site cannot send this type.
    if (!/^application\/octet-stream\s*(;|$)/i.test(type)) {
      const wanted = "send content-type: application/octet-stream";
      throw new HTTPException(415, { message: `Cannot import a capsule of type "${type}": ${wanted}` });
    }
    const { id, replace } = parse(importQuery, c.req.query());
    const { sessions } = service.engine;
    const limit = sessions.maxCapsuleBytes;
    const capsule = await readBytes(c.req.raw, limit);
    if (!capsule) {
      const message = `Cannot import the capsule: more than ${limit} bytes, wanted at most as many`;
      throw new CapsuleError("snapshot_too_large", message);
    }
    const { kvTokens, kvRefused, ...session } = await sessions.import(capsule, {
      tenant: c.get("tenant"),
      ...defined({ id, replace }),
    });
    // Of the one that it took the place of, as of one that is deleted.
    if (replace) answers.forget(c.get("tenant"), session.id);
    const kv = { kv_tokens: kvTokens, kv_refused: kvRefused ?? null };
    return c.json({ ...sessionView(session), ...kv }, 201, { location: locationOf(session.id) });
  });
}
