import { Hono } from "hono";
import { InvalidRequestError } from "../errors.ts";
import { defined, parse } from "./parse.ts";
import { readJson } from "./read_json.ts";
import { parseGenerateRequest } from "./request_schema.ts";
import { exportBody, forkBody, rewindBody } from "./session_schema.ts";
import { planView, sessionView } from "./session_view.ts";
import { locationOf } from "./sessions_route.ts";
import type { Service } from "./service.ts";
import type { AppEnv } from "./tenants.ts";

/** `POST /v1/sessions/:id/{rewind,fork,export,plan}`. */
export function sessionVerbsRoute(service: Service): Hono<AppEnv> {
  return new Hono<AppEnv>()
    .post("/v1/sessions/:id/rewind", async (c) => {
      const { to_turn, to_token, if_turn } = parse(rewindBody, await readJson(c));
      const session = await service.engine.sessions.rewind(c.req.param("id"), {
        tenant: c.get("tenant"),
        ...(to_turn == null ? { toToken: to_token! } : { toTurn: to_turn }),
        ...defined({ ifTurn: if_turn }),
      });
      return c.json(sessionView(session));
    })
    .post("/v1/sessions/:id/fork", async (c) => {
      const { at_turn, id } = parse(forkBody, await readJson(c));
      const session = await service.engine.sessions.fork(c.req.param("id"), {
        tenant: c.get("tenant"),
        ...defined({ atTurn: at_turn, newId: id }),
      });
      return c.json(sessionView(session), 201, { location: locationOf(session.id) });
    })
    .post("/v1/sessions/:id/export", async (c) => {
      const { kv } = parse(exportBody, await readJson(c));
      const options = { tenant: c.get("tenant"), kv: kv ?? false };
      const capsule = await service.engine.sessions.export(c.req.param("id"), options);
      return c.body(capsule as Uint8Array<ArrayBuffer>, 200, {
        "content-type": "application/octet-stream",
        "content-disposition": `attachment; filename="session.capsule"`,
      });
    })
    .post("/v1/sessions/:id/plan", async (c) => {
      const id = c.req.param("id");
      const tenant = c.get("tenant");
      const { model, request } = parseGenerateRequest(await readJson(c), { tenant, sessionId: id });
      const { sessions } = service.engineFor(model);
      sessions.describe(id, { tenant });
      if (request.session && request.session.id !== id) {
        throw new InvalidRequestError(
          `Cannot plan for session "${request.session.id}": the path names "${id}"`,
          "session.id",
        );
      }
      return c.json(planView(id, await sessions.plan(request)));
    });
}
