import type { Engine } from "../engine/engine.ts";
import { BackendUnavailableError, ModelNotFoundError } from "../errors.ts";

/**
 * The engine as HTTP sees it: it may still be loading, or have failed to load.
 * The listener starts before the model is there, so that probes get an answer.
 */
export class Service {
  #engine: Engine | undefined;
  #failure: Error | undefined;

  /**
   * @param engine an engine, or the promise of one
   * @param loading what is being done until it is there
   */
  constructor(engine: Engine | Promise<Engine>, private readonly loading: () => string = () => "the model is loading") {
    if (!(engine instanceof Promise)) this.#engine = engine;
    else {
      engine.then(
        (ready) => this.#engine = ready,
        (error) => this.#failure = error as Error,
      );
    }
  }

  /** Why requests cannot be served now; `undefined` when they can. */
  get notReady(): string | undefined {
    if (this.#failure) return `the model failed to load: ${this.#failure.message}`;
    if (!this.#engine) return this.loading();
    const { backend } = this.#engine;
    const { failure } = backend;
    if (failure) {
      // Whoever asks is told why not, and is the reason to try again.
      backend.revive?.();
      return failure.message;
    }
    return this.#engine.draining ? "the server is shutting down" : undefined;
  }

  /** @throws {BackendUnavailableError} while not ready */
  get engine(): Engine {
    if (!this.#engine || this.notReady) throw new BackendUnavailableError(`Cannot serve yet: ${this.notReady}`);
    return this.#engine;
  }

  /**
   * The engine, if it serves that model.
   * @throws {ModelNotFoundError} when it serves another
   */
  engineFor(model: string | undefined): Engine {
    const engine = this.engine;
    if (model !== undefined && model !== "default" && model !== engine.model.id) {
      throw new ModelNotFoundError(model, engine.model.id);
    }
    return engine;
  }
}
