import type { Engine } from "../../src/engine/engine.ts";
import { createRandom, type Random } from "../../src/sampling/random.ts";
import { openStream, type ReadStream, readToEnd } from "./sse_reader.ts";

/** What serves a request: the app, without a socket. */
export type Fetch = (request: Request) => Response | Promise<Response>;

/** One turn's time to its first token. */
export interface TtftSample {
  /** Where the session's KV was, as the answer says. */
  state: string;
  ms: number;
}

/** A conversation grows to so many tokens; then it is deleted and another begins. */
const LONGEST = 600;

const QUESTIONS = [
  "What should I plant for bees on a roof?",
  "Which of those flower first in spring?",
  "How much sun do they need, and how much water?",
  "And in winter?",
  "Say it in fewer words.",
];

/**
 * Somebody with a conversation who does all that clients do, at random: goes on, comes back after a while, leaves in the
 * middle, resumes, retries, rewinds, forks, exports and imports. Throws when an answer is not what it has to be.
 */
export class LoadClient {
  readonly #fetch: Fetch;
  readonly #engine: Engine;
  readonly #random: Random;
  readonly #name: string;
  #sessions = 0;
  #turn = 0;
  readonly samples: TtftSample[] = [];
  /** How often each thing was done. */
  readonly counts: Record<string, number> = {};

  constructor(fetch: Fetch, engine: Engine, index: number) {
    this.#fetch = fetch;
    this.#engine = engine;
    this.#random = createRandom(index);
    this.#name = `load-${index}`;
  }

  /** The conversation's session. */
  get id(): string {
    return `${this.#name}-${this.#sessions}`;
  }

  /** Does one thing. */
  async step(): Promise<void> {
    if (this.#turn === 0) return await this.#count("begin", () => this.#goOn());
    const { tokens } = this.#engine.sessions.describe(this.id);
    if (tokens > LONGEST) return await this.#count("delete", () => this.#delete());
    const [name, act] = this.#choose();
    await this.#count(name, act);
  }

  #choose(): [name: string, act: () => Promise<void>] {
    const choices: [weight: number, name: string, act: () => Promise<void>][] = [
      [6, "go on", () => this.#goOn()],
      [3, "park", async () => void await this.#engine.sessions.park(this.id)],
      [2, "evict", async () => void await this.#engine.sessions.evict(this.id)],
      [3, "leave", () => this.#leave()],
      [2, "resume", () => this.#resume()],
      [2, "retry", () => this.#retry()],
      [1, "rewind", () => this.#rewind()],
      [1, "fork", () => this.#fork()],
      [1, "carry", () => this.#carry()],
    ];
    let at = this.#random() * choices.reduce((sum, [weight]) => sum + weight, 0);
    const [, name, act] = choices.find(([weight]) => (at -= weight) < 0)!;
    return [name, act];
  }

  /** A turn, read to its end. */
  async #goOn(): Promise<void> {
    await this.#finish(await this.#ask());
  }

  /** The client is gone after a few tokens: nothing has changed. */
  async #leave(): Promise<void> {
    const leaving = new AbortController();
    const stream = await this.#ask({}, {}, leaving.signal);
    for (let i = 0; i < 3; i++) await stream.next();
    leaving.abort();
    await stream.leave();
    const response = await this.#send("GET", `/v1/streams/${stream.id}`);
    await response.text();
    this.#require(this.#engine.sessions.describe(this.id).turn === this.#turn, "a turn that was left was kept");
  }

  /** The connection is lost, and the rest comes over another. */
  async #resume(): Promise<void> {
    const stream = await this.#ask({ on_disconnect: "continue" });
    for (let i = 0; i < 3; i++) await stream.next();
    await stream.leave();
    const response = await this.#send("GET", `/v1/streams/${stream.id}`, undefined, { "last-event-id": stream.lastId });
    await this.#finish(openStream(response, stream.startedAt, stream.firstTokenMs));
  }

  /** The same request twice is one turn. */
  async #retry(): Promise<void> {
    const key = { "idempotency-key": crypto.randomUUID() };
    const length = this.#answerLength();
    const both = await Promise.all([this.#ask({}, key, undefined, length), this.#ask({}, key, undefined, length)]);
    const [one, other] = await Promise.all(both.map(readToEnd));
    this.#require(one!.text === other!.text, "a retry had another answer");
    this.#turn++;
  }

  async #rewind(): Promise<void> {
    const response = await this.#verb("rewind", { to_turn: this.#turn - 1, if_turn: this.#turn });
    this.#turn = (await response.json()).turn;
  }

  /** A branch that goes on for a turn and is deleted. */
  async #fork(): Promise<void> {
    const { id } = await (await this.#verb("fork", {})).json();
    const body = this.#body({ id }, this.#answerLength());
    await readToEnd(openStream(await this.#send("POST", "/v1/chat/completions", body)));
    await this.#send("DELETE", `/v1/sessions/${id}`);
  }

  /** Out as a capsule, and in again. */
  async #carry(): Promise<void> {
    const capsule = new Uint8Array(await (await this.#verb("export", { kv: true })).arrayBuffer());
    await this.#send("DELETE", `/v1/sessions/${this.id}`);
    const response = await this.#fetch(
      new Request("http://localhost/v1/sessions/import", {
        method: "POST",
        headers: { host: "localhost", "content-type": "application/octet-stream" },
        body: capsule,
      }),
    );
    this.#require(response.status === 201, await response.text());
  }

  async #delete(): Promise<void> {
    await this.#send("DELETE", `/v1/sessions/${this.id}`);
    this.#sessions++;
    this.#turn = 0;
  }

  async #finish(stream: ReadStream): Promise<void> {
    const { state, ttftMs, turn } = await readToEnd(stream);
    this.#require(turn === this.#turn + 1, `turn ${turn} came after ${this.#turn}`);
    this.#turn = turn;
    if (ttftMs !== undefined) this.samples.push({ state, ms: ttftMs });
  }

  async #ask(
    session: object = {},
    headers: Record<string, string> = {},
    signal?: AbortSignal,
    length = this.#answerLength(),
  ): Promise<ReadStream> {
    const body = this.#body({ id: this.id, if_turn: this.#turn, ...session }, length);
    const startedAt = performance.now();
    return openStream(await this.#send("POST", "/v1/chat/completions", body, headers, signal), startedAt);
  }

  #body(session: object, max_tokens: number) {
    const content = QUESTIONS[this.#turn % QUESTIONS.length];
    return {
      messages: [{ role: "user", content }],
      session: { mode: "append", ...session },
      max_tokens,
      ignore_eos: true,
      stream: true,
    };
  }

  #answerLength(): number {
    return 4 + Math.floor(this.#random() * 24);
  }

  #verb(name: string, body: object): Promise<Response> {
    return this.#send("POST", `/v1/sessions/${this.id}/${name}`, body);
  }

  async #send(
    method: string,
    path: string,
    body?: object,
    headers: Record<string, string> = {},
    signal?: AbortSignal,
  ): Promise<Response> {
    const response = await this.#fetch(
      new Request(`http://localhost${path}`, {
        method,
        headers: { host: "localhost", "content-type": "application/json", ...headers },
        ...(body && { body: JSON.stringify(body) }),
        signal,
      }),
    );
    if (!response.ok) throw new Error(`Cannot go on with the load: ${method} ${path} is ${await response.text()}`);
    return response;
  }

  async #count(name: string, act: () => Promise<void>): Promise<void> {
    await act();
    this.counts[name] = (this.counts[name] ?? 0) + 1;
  }

  #require(holds: boolean, what: string): void {
    if (!holds) throw new Error(`Cannot go on with the load: ${what}`);
  }
}
