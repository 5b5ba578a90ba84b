/** A part of an answer. */
export interface Frame {
  /** As it goes over the wire. */
  wire: string;
  /** What of the answer's text it carries. */
  text: string;
}

interface KeptFrame extends Frame {
  /** Bytes of all frames before it. */
  start: number;
}

/** The last frames of a stream, by number, and the text of those before. Bytes are those on the wire. */
export class FrameRing {
  readonly #frames = new Map<number, KeptFrame>();
  #first = 0;
  #next = 0;
  #total = 0;
  #droppedText = "";

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

  /** The answer's text in the frames that are not kept any more. */
  get droppedText(): string {
    return this.#droppedText;
  }

  /** Bytes of the frame of that number and all after it. */
  bytesFrom(number: number): number {
    return this.#total - (this.#frames.get(number)?.start ?? this.#total);
  }

  push(frame: Frame): void {
    this.#frames.set(this.#next++, { ...frame, start: this.#total });
    this.#total += Buffer.byteLength(frame.wire);
  }

  /** @returns `undefined` for one that is not kept any more, or not there yet */
  get(number: number): string | undefined {
    return this.#frames.get(number)?.wire;
  }

  /** Drops the oldest frames before `number` until at most `keepBytes` of those before it are left. */
  trim(number: number, keepBytes: number): void {
    while (this.#first < number && this.bytes - this.bytesFrom(number) > keepBytes) {
      this.#droppedText += this.#frames.get(this.#first)!.text;
      this.#frames.delete(this.#first++);
    }
  }
}
