import { Hono } from "hono";
import type { Service } from "./service.ts";

/** `GET /v1/models` and `/v1/models/:model`: the one model that is served. */
export function modelsRoute(service: Service): Hono {
  const created = Math.floor(Date.now() / 1000);
  const describe = () => {
    const { model, backend } = service.engine;
    return {
      id: model.id,
      object: "model",
      created,
      owned_by: "hearth",
      context_length: model.config.contextLength,
      backend: backend.info,
    };
  };
  return new Hono()
    .get("/v1/models", (c) => c.json({ object: "list", data: [describe()] }))
    .get("/v1/models/:model", (c) => {
      service.engineFor(c.req.param("model"));
      return c.json(describe());
    });
}
