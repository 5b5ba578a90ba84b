import { Hono } from "hono";
import type { Service } from "./service.ts";

/** `GET /livez`: the process answers. `GET /readyz`: it can serve requests, or 503 with the reason. */
export function healthRoute(service: Service): Hono {
  return new Hono()
    .get("/livez", (c) => c.json({ status: "ok" }))
    .get("/readyz", (c) => {
      const reason = service.notReady;
      if (reason) return c.json({ status: "unavailable", reason }, 503, { "retry-after": "1" });
      const { sessions, backend: { info } } = service.engine;
      return c.json({ status: "ok", backend: info.name, device: info.device, sessions: sessions.stats() });
    });
}
