import { Hono } from "hono";
import { InvalidRequestError } from "../errors.ts";
import type { Answers } from "./answers.ts";
import { parse } from "./parse.ts";
import { readJson } from "./read_json.ts";
import { createBody, inspectQuery, listQuery } from "./session_schema.ts";
import { sessionDetailsView, sessionView } from "./session_view.ts";
import type { Service } from "./service.ts";
import type { AppEnv } from "./tenants.ts";

/** `/v1/sessions`: make, list, inspect and delete the tenant's sessions. */
export function sessionsRoute(service: Service, answers: Answers): Hono<AppEnv> {
  return new Hono<AppEnv>()
    .post("/v1/sessions", async (c) => {
      const { id, ttl_s } = parse(createBody, await readJson(c));
      const session = await service.engine.sessions.create({
        tenant: c.get("tenant"),
        id: id ?? undefined,
        ttlMs: ttl_s == null ? undefined : ttl_s * 1000,
      });
      return c.json(sessionView(session), 201, { location: locationOf(session.id) });
    })
    .get("/v1/sessions", (c) => {
      const { limit, after } = parse(listQuery, c.req.query());
      const all = service.engine.sessions.list({ tenant: c.get("tenant") });
      const start = after === undefined ? 0 : all.findIndex(({ id }) => id === after) + 1;
      if (after !== undefined && start === 0) {
        throw new InvalidRequestError(`Cannot list after "${after}": there is no such session`, "after");
      }
      const data = all.slice(start, start + limit).map(sessionView);
      return c.json({ object: "list", data, has_more: start + limit < all.length });
    })
    .get("/v1/sessions/:id", (c) => {
      const { ids } = parse(inspectQuery, c.req.query());
      const session = service.engine.sessions.inspect(c.req.param("id"), { tenant: c.get("tenant") });
      return c.json(sessionDetailsView(session, ids));
    })
    .delete("/v1/sessions/:id", async (c) => {
      const id = c.req.param("id");
      const owner = { tenant: c.get("tenant") };
      const { sessions } = service.engine;
      // At once, as the session goes whatever the disk says: a turn that begins meanwhile is of another conversation.
      answers.forget(owner.tenant, id);
      // What was not there says why.
      if (!await sessions.delete(id, owner)) sessions.describe(id, owner);
      return c.json({ id, object: "session.deleted", deleted: true });
    });
}

export const locationOf = (id: string): string => `/v1/sessions/${encodeURIComponent(id)}`;
