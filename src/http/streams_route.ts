import { Hono } from "hono";
import type { Answers } from "./answers.ts";
import type { AppEnv } from "./tenants.ts";

/**
 * `GET /v1/streams/:id`: the rest of a stream whose connection was lost, after `Last-Event-ID`. `DELETE`: stop it.
 * A stream's id is that of its chunks.
 */
export function streamsRoute(answers: Answers): Hono<AppEnv> {
  return new Hono<AppEnv>()
    .get("/v1/streams/:id", async (c) => await answers.resume(c, c.req.param("id")))
    .delete("/v1/streams/:id", async (c) => {
      const stream = answers.streams.get(c.get("tenant"), c.req.param("id"));
      stream.cancel(new DOMException("Cannot go on: the stream was stopped", "AbortError"));
      return c.json({ id: stream.id, object: "stream.stopped", complete: await stream.over });
    });
}
