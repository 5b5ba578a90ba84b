import assert from "node:assert/strict";
import { createApp } from "../../src/http/app.ts";
import { fakeEngine, type FakeEngineOptions } from "../fakes/fake_engine.ts";
import { type App, get, post } from "./client.ts";

export const user = (content: string) => [{ role: "user", content }];
export const base = { max_tokens: 4, ignore_eos: true };

export function app(options: FakeEngineOptions = {}) {
  const fake = fakeEngine(options);
  return { ...fake, app: createApp(fake.engine) };
}

/** One turn of session `s` by appending, unless the body says otherwise. */
export async function turn(app: App, content: string, body: object = {}) {
  const session = { id: "s", mode: "append", ...(await get(app, "/v1/sessions/s")).status === 404 && { if_turn: 0 } };
  const response = await post(app, "/v1/chat/completions", { ...base, messages: user(content), session, ...body });
  assert.equal(response.status, 200, await response.clone().text());
  return await response.json();
}

export const json = async (response: Promise<Response>) => {
  const answered = await response;
  return { status: answered.status, headers: answered.headers, body: await answered.json() };
};

export const code = async (response: Promise<Response>) => {
  const { status, body } = await json(response);
  return `${status} ${body.error?.code}`;
};
