import { Hono } from "hono";
import type { CacheForecast } from "../engine/cache_report.ts";
import type { Generation } from "../engine/generation.ts";
import type { Answers } from "./answers.ts";
import { serverTiming } from "./explain.ts";
import type { Frame } from "./frame_ring.ts";
import { headerText } from "./header_text.ts";
import { callerOf, readJson } from "./read_json.ts";
import { parseGenerateRequest } from "./request_schema.ts";
import type { Service } from "./service.ts";
import type { AppEnv } from "./tenants.ts";

/**
 * `POST /v1/generate` -> the answer as chunked `text/plain`, for `curl`.
 * The first token is awaited, so that an error in prefill still has its own status;
 * a later error breaks the response off.
 */
export function generateRoute(service: Service, answers: Answers): Hono<AppEnv> {
  return new Hono<AppEnv>().post("/v1/generate", async (c) => {
    const { model, request, onDisconnect } = parseGenerateRequest(await readJson(c), callerOf(c));
    const engine = service.engineFor(model);
    const { session } = request;
    const named = session && { "x-session-id": headerText(session.id) };
    return await answers.respond(c, {
      id: crypto.randomUUID(),
      contentType: "text/plain; charset=utf-8",
      session,
      onDisconnect,
      open: async (signal, onCommit) => {
        const generation = await engine.start(request, { signal, onCommit });
        const pieces = text(generation);
        const first = await pieces.next();
        const { firstDifference } = generation.forecast;
        const headers = {
          "x-prompt-tokens": `${generation.promptTokens}`,
          "x-cached-tokens": `${generation.cachedTokens}`,
          ...(generation.publicTokens > 0 && { "x-public-tokens": `${generation.publicTokens}` }),
          "x-cache-reason": generation.forecast.reason,
          ...(firstDifference && { "x-cache-first-difference": differenceText(firstDifference) }),
          ...(generation.truncated && { "x-truncated-turns": `${generation.truncated.turns}` }),
          "server-timing": serverTiming(generation.timings),
          ...(named && { ...named, "x-session-state": generation.forecast.stateBefore }),
        };
        return { headers, pieces: prepend(first, pieces) };
      },
    });
  });
}

/** As `hearth.cache.first_difference`, in a header. */
const differenceText = ({ token, message }: NonNullable<CacheForecast["firstDifference"]>) =>
  `token=${token}${message === undefined ? "" : `, message=${message}`}`;

/** The answer's text, piece by piece. Returns at the end of the whole. */
async function* text(generation: Generation): AsyncGenerator<Frame, true, undefined> {
  for await (const { text } of generation) if (text) yield { wire: text, text };
  return true;
}

async function* prepend(
  first: IteratorResult<Frame, true>,
  rest: AsyncGenerator<Frame, true, undefined>,
): AsyncGenerator<Frame, true, undefined> {
  if (first.done) return true;
  yield first.value;
  return yield* rest;
}
