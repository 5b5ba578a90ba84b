import { Hono } from "hono";
import { bodyLimit } from "hono/body-limit";
import { HTTPException } from "hono/http-exception";
import { secureHeaders } from "hono/secure-headers";
import type { Engine } from "../engine/engine.ts";
import { DEFAULT_TENANT } from "../session/session.ts";
import { Answers, type AnswersOptions } from "./answers.ts";
import { chatCompletionsRoute } from "./chat_completions_route.ts";
import { errorResponse } from "./error_response.ts";
import { generateRoute } from "./generate_route.ts";
import { jsonBodyOnly, loopbackHostOnly } from "./guards.ts";
import { healthRoute } from "./health_route.ts";
import { modelsRoute } from "./models_route.ts";
import { sessionImportRoute } from "./session_import_route.ts";
import { sessionVerbsRoute } from "./session_verbs_route.ts";
import { sessionsRoute } from "./sessions_route.ts";
import { Service } from "./service.ts";
import { streamsRoute } from "./streams_route.ts";
import { type AppEnv, oneTenant, requireKey, type TenantKey } from "./tenants.ts";

/** Options of {@linkcode createApp}. */
export interface AppOptions extends AnswersOptions {
  /** Clients send it as `Authorization: Bearer …`. Without one only this machine is served. */
  apiKey?: string;
  /** Keys of several tenants: none sees another's sessions. `apiKey`'s is "default". */
  apiKeys?: readonly TenantKey[];
  /** What `/readyz` says while the engine is not there yet. @default "the model is loading" */
  loading?: () => string;
  /** Largest request body, in bytes. @default 1 MiB */
  maxBodyBytes?: number;
}

/**
 * The HTTP side of Hearth. `app.fetch` is all that a listener, a serverless handler or a test needs.
 * @param engine an engine, or the promise of one: until it is there, requests get 503
 */
export function createApp(engine: Engine | Promise<Engine>, options: AppOptions = {}): Hono<AppEnv> {
  const service = new Service(engine, options.loading);
  const answers = new Answers(options);
  const app = new Hono<AppEnv>();
  app.onError((error) => errorResponse(error));
  app.notFound((c) => errorResponse(new HTTPException(404, { message: `Cannot find ${c.req.method} ${c.req.path}` })));

  app.use(secureHeaders());
  app.route("/", healthRoute(service));
  const { apiKey, apiKeys = [] } = options;
  const keys = apiKey === undefined ? apiKeys : [{ tenant: DEFAULT_TENANT, key: apiKey }, ...apiKeys];
  if (keys.length === 0) app.use(loopbackHostOnly(), oneTenant());
  else app.use(requireKey(keys));
  // Not JSON, and larger than what is.
  app.route("/", sessionImportRoute(service, answers));
  app.use(jsonBodyOnly());
  const maxSize = options.maxBodyBytes ?? 2 ** 20;
  app.use(bodyLimit({
    maxSize,
    onError: () =>
      errorResponse(new HTTPException(413, { message: `Cannot read the body: more than ${maxSize} bytes` })),
  }));
  app.route("/", modelsRoute(service));
  app.route("/", generateRoute(service, answers));
  app.route("/", chatCompletionsRoute(service, answers));
  app.route("/", sessionsRoute(service, answers));
  app.route("/", sessionVerbsRoute(service));
  app.route("/", streamsRoute(answers));
  return app;
}
