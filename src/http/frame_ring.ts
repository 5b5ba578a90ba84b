interface Frame {
  text: string;
  /** Bytes of all frames before it. */
  start: number;
}

/** The last frames of a stream, by number. Bytes are those on the wire. */
export class FrameRing {
  readonly #frames = new Map<number, Frame>();
  #first = 0;
  #next = 0;
  #total = 0;

  /** Number of the oldest frame that is kept. */
  get first(): number {
    return this.#first;
  }

  /** Number of the frame that comes next. */
  get next(): number {
    return this.#next;
  }

  /** Bytes kept. */
  get bytes(): number {
    return this.bytesFrom(this.#first);
  }

  /** Bytes of the frame of that number and all after it. */
  bytesFrom(number: number): number {
    return this.#total - (this.#frames.get(number)?.start ?? this.#total);
  }

  push(text: string): void {
    this.#frames.set(this.#next++, { text, start: this.#total });
    this.#total += Buffer.byteLength(text);
  }

  /** @returns `undefined` for one that is not kept any more, or not there yet */
  get(number: number): string | undefined {
    return this.#frames.get(number)?.text;
  }

  /** Drops the oldest frames before `number` until at most `keepBytes` of those before it are left. */
  trim(number: number, keepBytes: number): void {
    while (this.#first < number && this.bytes - this.bytesFrom(number) > keepBytes) this.#frames.delete(this.#first++);
  }
}
