/** What the programs of this folder print: a line a check, then `N passed, N failed`. */

/** Counts checks. */
export class Report {
  #passed = 0;
  #failed = 0;

  /** One check, with the figures it rests on. */
  check(name: string, passed: boolean, figures: string): void {
    passed ? this.#passed++ : this.#failed++;
    console.log(`${passed ? "ok  " : "FAIL"} ${name}: ${figures}`);
  }

  /** Runs what makes checks; when it can't be run, that is one failure. */
  async attempt(name: string, run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      this.check(name, false, (error as Error).message);
    }
  }

  /** The last line, and the exit code. */
  end(): void {
    const mebibytes = process.resourceUsage().maxRSS / 1024;
    console.log(`     peak memory of this process: ${mebibytes.toFixed(0)} MiB`);
    console.log(`${this.#passed} passed, ${this.#failed} failed`);
    process.exitCode = this.#failed > 0 ? 1 : 0;
  }
}
