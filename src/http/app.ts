import { Hono } from "hono";
import { bearerAuth } from "hono/bearer-auth";
import { bodyLimit } from "hono/body-limit";
import { HTTPException } from "hono/http-exception";
import { secureHeaders } from "hono/secure-headers";
import type { Engine } from "../engine/engine.ts";
import { chatCompletionsRoute } from "./chat_completions_route.ts";
import { errorResponse } from "./error_response.ts";
import { generateRoute } from "./generate_route.ts";
import { jsonBodyOnly, loopbackHostOnly } from "./guards.ts";
import { healthRoute } from "./health_route.ts";
import { modelsRoute } from "./models_route.ts";
import { Service } from "./service.ts";

/** Options of {@linkcode createApp}. */
export interface AppOptions {
  /** Clients send it as `Authorization: Bearer …`. Without one only this machine is served. */
  apiKey?: string;
  /** Largest request body, in bytes. @default 1 MiB */
  maxBodyBytes?: number;
  /** A stream that is silent for so many milliseconds sends an SSE comment. @default 10_000 */
  pingMs?: number;
}

/**
 * The HTTP side of Hearth. `app.fetch` is all that a listener, a serverless handler or a test needs.
 * @param engine an engine, or the promise of one: until it is there, requests get 503
 */
export function createApp(engine: Engine | Promise<Engine>, options: AppOptions = {}): Hono {
  const service = new Service(engine);
  const app = new Hono();
  app.onError((error) => errorResponse(error));
  app.notFound((c) => errorResponse(new HTTPException(404, { message: `Cannot find ${c.req.method} ${c.req.path}` })));

  app.use(secureHeaders());
  app.route("/", healthRoute(service));
  if (options.apiKey === undefined) app.use(loopbackHostOnly());
  else app.use(requireKey(options.apiKey));
  app.use(jsonBodyOnly());
  const maxSize = options.maxBodyBytes ?? 2 ** 20;
  app.use(bodyLimit({
    maxSize,
    onError: () =>
      errorResponse(new HTTPException(413, { message: `Cannot read the body: more than ${maxSize} bytes` })),
  }));
  app.route("/", modelsRoute(service));
  app.route("/", generateRoute(service));
  app.route("/", chatCompletionsRoute(service, { pingMs: options.pingMs }));
  return app;
}

function requireKey(token: string) {
  const refused = (message: string) => ({
    error: { message, type: "invalid_request_error", param: null, code: "invalid_api_key" },
  });
  return bearerAuth({
    token,
    noAuthenticationHeader: { message: refused("Cannot serve without a key: send Authorization: Bearer <key>") },
    invalidAuthenticationHeader: { message: refused("Cannot read the Authorization header: wanted Bearer <key>") },
    invalidToken: { message: refused("Cannot accept this key") },
  });
}
