/** How much one measurement more counts. */
const WEIGHT = 0.3;

/** What evaluating and moving KV cost here, as measured. One for all sessions of an engine. */
export class KvRates {
  #prefillMsPerToken: number | undefined;
  #restoreMsPerByte: number | undefined;

  /** Counts a prefill of new tokens. */
  recordPrefill(tokens: number, ms: number): void {
    if (tokens > 0) this.#prefillMsPerToken = average(this.#prefillMsPerToken, ms / tokens);
  }

  /** Counts a restore, reading and checking included. */
  recordRestore(bytes: number, ms: number): void {
    if (bytes > 0) this.#restoreMsPerByte = average(this.#restoreMsPerByte, ms / bytes);
  }

  /** Milliseconds to evaluate so many tokens; `undefined` before the first measurement. */
  prefillMs(tokens: number): number | undefined {
    return this.#prefillMsPerToken && this.#prefillMsPerToken * tokens;
  }

  /** Milliseconds to restore so many bytes; `undefined` before the first measurement. */
  restoreMs(bytes: number): number | undefined {
    return this.#restoreMsPerByte && this.#restoreMsPerByte * bytes;
  }
}

const average = (old: number | undefined, value: number) => old === undefined ? value : old + WEIGHT * (value - old);

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
    const prefillMs = this.rates.prefillMs(tokens);
    return restoreMs === undefined || prefillMs === undefined || restoreMs < prefillMs;
  }
}
