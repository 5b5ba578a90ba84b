import assert from "node:assert/strict";
import fc from "fast-check";
import type { Engine } from "../../src/engine/engine.ts";
import type { SessionRef, Usage } from "../../src/engine/generate_request.ts";
import { BackendUnavailableError, CapsuleError, OutOfMemoryError } from "../../src/errors.ts";
import type { SampledToken } from "../../src/sampling/sampler.ts";
import { commonLength } from "../../src/session/transcript.ts";

/** Longest transcript, so that programs do not slow down. */
const LONGEST = 80;

/** Any token of a vocabulary; {@linkcode ProgramRun} knows its size. */
const token = fc.nat(2 ** 20);
const ids = fc.array(token, { minLength: 1, maxLength: 12 });
/** Uneven, so that one session has a history. */
const session = fc.constantFrom("a", "a", "a", "b", "b", "c");
/** `c` is the only session of a tenant of its own. */
const tenantOf = (id: string) => id === "c" ? "other" : "default";

/** One step of a random program on one session. */
export type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;
export const step = fc.oneof(
  { weight: 6, arbitrary: fc.record({ kind: fc.constant("append" as const), ids }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("replay" as const), ids }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("greet" as const), ids }) },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant("edit" as const), at: fc.nat(LONGEST), id: token }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("shorten" as const), to: fc.nat(LONGEST) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("regenerate" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("rewindToTurn" as const), to: fc.nat(10) }) },
  { weight: 3, arbitrary: fc.record({ kind: fc.constant("rewindToToken" as const), to: fc.nat(LONGEST) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("fork" as const), from: session, at: fc.nat(10) }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("move" as const), from: session, kv: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("spoil" as const), from: session, at: fc.nat(10_000) }) },
  { weight: 4, arbitrary: fc.record({ kind: fc.constant("park" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("evict" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("delete" as const) }) },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("fail" as const), ids }) },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("full" as const), ids, times: fc.integer({ min: 1, max: 5 }) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("crash" as const) }) },
);

/** A step with how its turn goes. */
export type Command = typeof command extends fc.Arbitrary<infer T> ? T : never;
export const command = fc.record({
  session,
  step,
  maxTokens: fc.nat(8),
  /** Cancel after so many events; never when absent. */
  cancelAfter: fc.option(fc.nat(6), { nil: undefined }),
  onAbort: fc.constantFrom("rollback" as const, "keep_partial" as const),
  /** Whether the turn runs beside the next one. */
  overlap: fc.boolean(),
});

/** What a session should be: ids, and where each turn's answer begins and ends. */
interface Model {
  ids: number[];
  turns: { replyStart: number; end: number }[];
}

/** What a program runs on, behind its engine. */
export interface ProgramHost {
  vocabSize: number;
  /** What the engine was told is public. */
  publicIds: readonly number[];
  /** Asserts that these are the first tokens of a greedy run from nothing, without engine, session or cache. */
  checkAnswer(prompt: readonly number[], answer: readonly SampledToken[]): void | Promise<void>;
  /** Makes the next pass fail with an {@linkcode PASS_FAILED} error, once its caches have grown. */
  failNext(): void;
  /** Lets so many passes, the next ones, find no memory. */
  fill(times: number): void;
  /** Loses the KV of all sessions; resolves when passes can run again. */
  crash(): void | Promise<void>;
}

export const PASS_FAILED = "pass failed";

/** Runs commands on an engine and beside it on a model of what sessions are. */
export class ProgramRun {
  turns = 0;
  /** Turns that began with the public prefix's KV. */
  fromPublic = 0;
  readonly #models = new Map<string, Model>();
  readonly #overlapping = new Map<string, Promise<void>>();

  constructor(public engine: Engine, public host: ProgramHost) {}

  /** Runs one command; a turn that overlaps goes on beside those of other sessions. */
  async run({ session, step, overlap, ...turn }: Command): Promise<void> {
    await this.#overlapping.get(session);
    if ("from" in step) await this.#overlapping.get(step.from);
    const running = this.#play(session, step, turn);
    // Whoever waits for it hears of a failure; until then it is not unhandled.
    running.catch(() => {});
    if (overlap && !("from" in step)) this.#overlapping.set(session, running);
    else await running;
  }

  /** Waits for all turns, and compares every session with its model. */
  async settle(): Promise<void> {
    await Promise.all(this.#overlapping.values());
    for (const [id, model] of this.#models) {
      const { ids, turns, cachedTokens } = this.engine.sessions.inspect(id, { tenant: tenantOf(id) });
      assert.ok(cachedTokens <= ids.length);
      assert.deepEqual({ ids, turns: turns.map(({ replyStart, end }) => ({ replyStart, end })) }, model);
    }
    assert.deepEqual(this.#listed().sort(), [...this.#models.keys()].sort());
  }

  /** Deletes all sessions. */
  async deleteAll(): Promise<void> {
    for (const id of this.#listed()) await this.engine.sessions.delete(id, { tenant: tenantOf(id) });
  }

  /** Waits for all turns, however they end. */
  async idle(): Promise<void> {
    await Promise.allSettled(this.#overlapping.values());
  }

  #listed(): string[] {
    return ["default", "other"].flatMap((tenant) => this.engine.sessions.list({ tenant })).map(({ id }) => id);
  }

  async #play(id: string, unsized: Step, turn: Omit<Command, "session" | "step" | "overlap">): Promise<void> {
    const { sessions } = this.engine;
    const step = this.#sized(unsized);
    const tenant = tenantOf(id);
    // No verb reaches over to another tenant.
    if ("from" in step && tenantOf(step.from) !== tenant) return;
    const model = this.#models.get(id);
    const known = model ?? { ids: [], turns: [] };
    switch (step.kind) {
      case "append": {
        // A new session has to be asked for.
        const start = { ids: step.ids, mode: "append" as const, ifTurn: known.turns.length };
        if (known.ids.length + step.ids.length > LONGEST) return;
        return await this.#turn(id, [...known.ids, ...step.ids], start, turn);
      }
      case "replay":
        return await this.#turn(id, step.ids, { ids: step.ids }, turn);
      case "greet": {
        const ids = [...this.host.publicIds, ...step.ids];
        return await this.#turn(id, ids, { ids }, turn);
      }
      case "fail":
        this.host.failNext();
        return await this.#turn(id, step.ids, { ids: step.ids }, turn);
      case "full":
        this.host.fill(step.times);
        return await this.#turn(id, step.ids, { ids: step.ids }, turn);
      case "crash":
        return await this.host.crash();
      case "edit": {
        if (known.ids.length === 0) return;
        const ids = known.ids.with(step.at % known.ids.length, step.id);
        return await this.#turn(id, ids, { ids }, turn);
      }
      case "shorten": {
        const ids = known.ids.slice(0, Math.max(1, step.to));
        if (ids.length > 0) await this.#turn(id, ids, { ids }, turn);
        return;
      }
      case "regenerate": {
        const last = known.turns.at(-1);
        if (!last) return;
        return await this.#turn(id, known.ids.slice(0, last.replyStart), { ids: [], mode: "regenerate" }, turn);
      }
      case "rewindToTurn": {
        if (!model) return;
        const toTurn = step.to % (model.turns.length + 1);
        await sessions.rewind(id, { tenant, toTurn });
        this.#models.set(id, cut(model, model.turns[toTurn - 1]?.end ?? 0));
        return;
      }
      case "rewindToToken": {
        if (!model) return;
        const toToken = step.to % (model.ids.length + 1);
        await sessions.rewind(id, { tenant, toToken });
        this.#models.set(id, cut(model, toToken));
        return;
      }
      case "fork": {
        const parent = this.#models.get(step.from);
        if (!parent || step.from === id) return;
        await sessions.delete(id, { tenant });
        const atTurn = step.at % (parent.turns.length + 1);
        await sessions.fork(step.from, { tenant, atTurn, newId: id });
        this.#models.set(id, cut(parent, parent.turns[atTurn - 1]?.end ?? 0));
        return;
      }
      case "move": {
        if (!this.#models.has(step.from)) return;
        const capsule = await sessions.export(step.from, { tenant, kv: step.kv });
        const { kvTokens, turn } = await sessions.import(capsule, { tenant, id, replace: true });
        const moved = this.#models.get(step.from)!;
        assert.ok(kvTokens <= moved.ids.length && turn === moved.turns.length);
        this.#models.set(id, structuredClone(moved));
        return;
      }
      case "spoil": {
        if (!this.#models.has(step.from)) return;
        const capsule = await sessions.export(step.from, { tenant });
        capsule[step.at % capsule.length]! ^= 1;
        await assert.rejects(sessions.import(capsule, { tenant, id, replace: true }), CapsuleError);
        return;
      }
      case "park":
      case "evict":
        if (model) await sessions[step.kind](id, { tenant });
        return;
      case "delete":
        assert.equal(await sessions.delete(id, { tenant }), model !== undefined);
        this.#models.delete(id);
    }
  }

  /** A step in the tokens that there are. */
  #sized(step: Step): Step {
    const { vocabSize } = this.host;
    if ("ids" in step) return { ...step, ids: step.ids.map((id) => id % vocabSize) };
    return "id" in step ? { ...step, id: step.id % vocabSize } : step;
  }

  /** One turn, whose prompt has to come to these ids. */
  async #turn(
    id: string,
    prompt: number[],
    { ids, ...ref }: { ids: number[] } & Partial<SessionRef>,
    { maxTokens, cancelAfter, onAbort }: Omit<Command, "session" | "step" | "overlap">,
  ): Promise<void> {
    const got: SampledToken[] = [];
    let complete = false;
    try {
      const session = { id, tenant: tenantOf(id), onAbort, ...ref };
      const request = { prompt: { ids }, maxTokens, ignoreEos: true, session };
      const plan = await this.engine.sessions.plan(request);
      assert.equal(plan.promptTokens, prompt.length);
      const generation = await this.engine.start(request);
      this.turns++;
      assert.equal(generation.promptTokens, prompt.length);
      let events = 0;
      if (cancelAfter === 0) generation.cancel();
      for await (const event of generation) {
        if (event.type === "token") got.push(event);
        else complete = true;
        if (event.type === "end") this.#checkCounts(id, prompt, event.usage);
        if (++events === cancelAfter) generation.cancel();
      }
    } catch (error) {
      if (error instanceof OutOfMemoryError || error instanceof BackendUnavailableError) {
        // As before.
      } else if ((error as Error).name !== "AbortError" && (error as Error).message !== PASS_FAILED) throw error;
    }
    assert.ok(complete ? got.length === maxTokens : got.length <= maxTokens, `${got.length} of ${maxTokens} tokens`);
    await this.host.checkAnswer(prompt, got);
    const kept = complete || (onAbort === "keep_partial" && got.length > 0);
    if (kept) this.#models.set(id, next(this.#models.get(id), prompt, got.map(({ id }) => id)));
  }

  /** Checks that a tenant is told of no KV that is not its own, and that what was shared is the public prefix. */
  #checkCounts(id: string, prompt: number[], { cachedTokens, cache }: Usage): void {
    const { publicIds } = this.host;
    if (cache.fromPublic > 0) {
      assert.deepEqual([cachedTokens, cache.fromPublic], [0, publicIds.length]);
      assert.deepEqual(prompt.slice(0, publicIds.length), publicIds);
      this.fromPublic++;
    }
    // A tenant with one session has nothing but that.
    const own = this.#models.get(id)?.ids ?? [];
    if (id === "c") assert.ok(cachedTokens <= commonLength(own, prompt, (a, b) => a === b));
  }
}

function next(before: Model | undefined, prompt: number[], reply: number[]): Model {
  const ids = [...prompt, ...reply];
  const kept = (before?.turns ?? []).filter(({ end }) =>
    end < prompt.length && before!.ids.slice(0, end).every((id, i) => id === ids[i])
  );
  return { ids, turns: [...kept, { replyStart: prompt.length, end: ids.length }] };
}

function cut({ ids, turns }: Model, length: number): Model {
  const whole = turns.filter(({ end }) => end <= length);
  const end = whole.at(-1)?.end ?? 0;
  const part = turns[whole.length];
  const rest = part && end < length ? [{ replyStart: Math.min(part.replyStart, length), end: length }] : [];
  return { ids: ids.slice(0, length), turns: [...whole, ...rest] };
}
