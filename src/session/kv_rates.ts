import { PrefillCost } from "./prefill_cost.ts";

/** How much of what was measured before still counts beside one measurement more. */
const MEMORY = 0.7;

/** Milliseconds for an amount of something, as measured lately. Large amounts say more than small ones. */
class Rate {
  #amount = 0;
  #ms = 0;

  record(amount: number, ms: number): void {
    this.#amount = this.#amount * MEMORY + amount;
    this.#ms = this.#ms * MEMORY + ms;
  }

  /** Milliseconds for so much; `undefined` before the first measurement. */
  msFor(amount: number): number | undefined {
    return this.#amount > 0 ? (amount * this.#ms) / this.#amount : undefined;
  }
}

/** What evaluating and moving KV cost here, as measured. One for all sessions of an engine. */
export class KvRates {
  readonly #prefill = new PrefillCost();
  readonly #restore = new Rate();

  /** Counts a prefill of new tokens after `from` others. */
  recordPrefill(tokens: number, from: number, ms: number): void {
    this.#prefill.record(tokens, from, ms);
  }

  /** Counts a restore, reading and checking included. */
  recordRestore(bytes: number, ms: number): void {
    this.#restore.record(bytes, ms);
  }

  /** Milliseconds to evaluate so many tokens after `from` others; `undefined` before the first measurement. */
  prefillMs(tokens: number, from: number): number | undefined {
    return this.#prefill.ms(tokens, from);
  }

  /** Milliseconds to restore so many bytes; `undefined` before the first measurement. */
  restoreMs(bytes: number): number | undefined {
    return this.#restore.msFor(bytes);
  }
}

/** Says whether KV is worth keeping outside the backend. */
export interface ParkingPolicy {
  /** @param tokens it saves to evaluate; @param bytes it takes */
  pays(tokens: number, bytes: number): boolean;
}

/** Parks what is faster to restore than to evaluate; what nobody measured yet, too, to find out. */
export class MeasuredParking implements ParkingPolicy {
  constructor(readonly rates: KvRates) {}

  pays(tokens: number, bytes: number): boolean {
    const restoreMs = this.rates.restoreMs(bytes);
    const prefillMs = this.rates.prefillMs(tokens, 0);
    return restoreMs === undefined || prefillMs === undefined || restoreMs < prefillMs;
  }
}
