/** Waits until so many threads have answered, or one cannot. */
export class RollCall {
  readonly #all = Promise.withResolvers<void>();
  #missing: number;

  /** @param count one or more */
  constructor(count: number) {
    this.#missing = count;
  }

  /** Resolves when all have answered; rejects when one failed before. */
  get allAnswered(): Promise<void> {
    return this.#all.promise;
  }

  /** Threads that have not answered yet. */
  get missing(): number {
    return this.#missing;
  }

  answer(): void {
    if (--this.#missing === 0) this.#all.resolve();
  }

  fail(error: Error): void {
    this.#all.reject(error);
  }
}
