import type { Engine } from "../../src/engine/engine.ts";
import type { GenerateRequest, Timings, Usage } from "../../src/engine/generate_request.ts";
import type { CaseResult } from "../report.ts";

/** What a case that needs no model gets to work with. */
export interface MachineContext {
  /** Repeats of what is averaged. */
  runs: number;
  /** How long a case lasts that is about time. */
  minutes: number;
  /** Fewer tokens and turns: to see that the case works, not for figures. */
  quick: boolean;
  progress(text: string): void;
}

/** What a case gets to work with. */
export interface CaseContext extends MachineContext {
  engine: Engine;
}

/** One question and its measurement. Throws when the result that is to be timed is wrong. */
export type Case = (context: CaseContext) => Promise<CaseResult>;

/** The same of the machine and its runtime, without a model. */
export type MachineCase = (context: MachineContext) => Promise<CaseResult>;

/** A whole answer with its times. */
export interface Answer {
  ids: number[];
  text: string;
  usage: Usage;
  timings: Timings;
}

/** Reads an answer to its end. */
export async function answer(engine: Engine, request: GenerateRequest): Promise<Answer> {
  const ids: number[] = [];
  let text = "";
  for await (const event of engine.generate(request)) {
    text += event.text;
    if (event.type === "token") ids.push(event.id);
    else if (event.type === "end") return { ids, text, usage: event.usage, timings: event.timings };
  }
  throw new Error("Cannot read the answer: the stream ended without its end event");
}

/** @throws {Error} naming the first token that differs */
export function requireSameTokens(what: string, got: readonly number[], wanted: readonly number[]): void {
  const at = wanted.findIndex((id, i) => got[i] !== id);
  if (at < 0 && got.length === wanted.length) return;
  throw new Error(`Cannot time ${what}: token ${at < 0 ? wanted.length : at} is ${got[at]}, wanted ${wanted[at]}`);
}
