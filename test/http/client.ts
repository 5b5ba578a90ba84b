import { createApp } from "../../src/http/app.ts";

/** The app without a socket. */
export type App = ReturnType<typeof createApp>;

/** What a request may have beside its path. */
export interface RequestOptions {
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** A request as it comes from this machine; a body that is no text or bytes is sent as JSON. */
export function send(
  app: App,
  method: string,
  path: string,
  body?: unknown,
  { headers, signal }: RequestOptions = {},
): Promise<Response> {
  const raw = body === undefined || typeof body === "string" || body instanceof Uint8Array;
  return Promise.resolve(app.request(`http://localhost${path}`, {
    method,
    headers: {
      host: "localhost:8787",
      ...(body !== undefined && { "content-type": "application/json" }),
      ...headers,
    },
    ...(body !== undefined && { body: raw ? body as BodyInit : JSON.stringify(body) }),
    ...(signal && { signal }),
  }));
}

export const post = (app: App, path: string, body: unknown, headers: Record<string, string> = {}) =>
  send(app, "POST", path, body, { headers });

export const get = (app: App, path: string, headers: Record<string, string> = {}) =>
  send(app, "GET", path, undefined, { headers });

/** One event of an SSE body. */
export interface SseEvent {
  id: string;
  /** Parsed; the terminator as text. */
  // deno-lint-ignore no-explicit-any -- what tests look into has many shapes
  data: any;
}

/** The events of an SSE body, comments left out. */
export function sseEvents(body: string): SseEvent[] {
  return body.split("\n\n").filter((frame) => frame.includes("data: ")).map((frame) => {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, "m").exec(frame)?.[1];
    const data = field("data")!;
    return { id: field("id") ?? "", data: data === "[DONE]" ? data : JSON.parse(data) };
  });
}

/** The text of a streamed answer. */
export const textOf = (events: readonly SseEvent[]): string =>
  events.map(({ data }) => data.choices?.[0]?.delta.content ?? "").join("");

/** Reads a body until so many events are there, and leaves. */
export async function readEvents(response: Response, count: number): Promise<SseEvent[]> {
  const { events, leave } = await readBeginning(response, count);
  await leave();
  return events;
}

/** Reads a body until so many events are there. @returns them, and what reads all to the end, or leaves */
export async function readBeginning(response: Response, count: number) {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let body = "";
  const more = async () => {
    const { done, value = "" } = await reader.read();
    body += value;
    return !done;
  };
  const whole = () => sseEvents(body.slice(0, body.lastIndexOf("\n\n") + 2));
  while (whole().length < count && await more());
  return {
    events: whole(),
    leave: () => reader.cancel(),
    async readAll(): Promise<SseEvent[]> {
      while (await more());
      return sseEvents(body);
    },
  };
}
