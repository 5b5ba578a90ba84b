import { Hono } from "hono";
import type { Generation } from "../engine/generation.ts";
import { bodyStream } from "./body_stream.ts";
import { readJson } from "./read_json.ts";
import { parseGenerateRequest } from "./request_schema.ts";
import type { Service } from "./service.ts";

/**
 * `POST /v1/generate` -> the answer as chunked `text/plain`, for `curl`.
 * The first token is awaited, so that an error in prefill still has its own status;
 * a later error breaks the response off.
 */
export function generateRoute(service: Service): Hono {
  return new Hono().post("/v1/generate", async (c) => {
    const { model, request } = parseGenerateRequest(await readJson(c.req.raw), c.req.header("x-session-id"));
    const generation = await service.engineFor(model).start(request, { signal: c.req.raw.signal });
    const pieces = text(generation);
    const first = await pieces.next();
    const body = bodyStream(prepend(first, pieces), { onCancel: () => generation.cancel() });
    return c.body(body, 200, {
      "content-type": "text/plain; charset=utf-8",
      "x-prompt-tokens": `${generation.promptTokens}`,
      "x-cached-tokens": `${generation.cachedTokens}`,
      ...(request.session && { "x-session-id": request.session.id }),
    });
  });
}

/** The answer's text, piece by piece. */
async function* text(generation: Generation): AsyncGenerator<string, void, undefined> {
  for await (const event of generation) if (event.text) yield event.text;
}

async function* prepend(first: IteratorResult<string, void>, rest: AsyncGenerator<string, void, undefined>) {
  if (first.done) return;
  yield first.value;
  yield* rest;
}
