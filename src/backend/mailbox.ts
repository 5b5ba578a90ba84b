/** Keeps messages until somebody hears them. */
export class Mailbox<T> {
  #listener: ((message: T) => void) | undefined;
  readonly #unheard: T[] = [];

  put(message: T): void {
    if (this.#listener) this.#listener(message);
    else this.#unheard.push(message);
  }

  /** One listener. */
  hear(listener: (message: T) => void): void {
    this.#listener = listener;
    this.#unheard.splice(0).forEach((message) => listener(message));
  }
}
