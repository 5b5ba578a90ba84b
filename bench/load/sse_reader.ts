/** A streamed answer while it is read. */
export interface ReadStream {
  /** The stream's id. */
  readonly id: string;
  /** When the request was sent, on `performance`'s clock. */
  readonly startedAt: number;
  /** Id of the last event that was read. */
  lastId: string;
  /** From the request to the first text; `undefined` before. */
  firstTokenMs: number | undefined;
  /** The next event's data, parsed; the terminator and the end are `undefined`. */
  next(): Promise<Chunk | undefined>;
  /** Closes the connection. */
  leave(): Promise<void>;
}

/** What is read of a chunk. */
export interface Chunk {
  choices: { delta: { content?: string } }[];
  hearth?: { session: { turn: number; state_before: string } };
  error?: { message: string };
}

/** An answer that was read to its end. */
export interface WholeStream {
  text: string;
  /** Absent when it has no text: the model may say nothing but control tokens. */
  ttftMs: number | undefined;
  turn: number;
  /** Where the session's KV was before it. */
  state: string;
}

/** Reads a response's events. @param firstTokenMs as it was on the connection before this one */
export function openStream(
  response: Response,
  startedAt: number = performance.now(),
  firstTokenMs?: number,
): ReadStream {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  return {
    id: response.headers.get("x-stream-id")!,
    startedAt,
    lastId: "",
    firstTokenMs,
    async next() {
      for (;;) {
        const end = buffered.indexOf("\n\n");
        if (end < 0) {
          const { done, value } = await reader.read();
          if (done) return undefined;
          buffered += value;
          continue;
        }
        const lines = buffered.slice(0, end).split("\n");
        buffered = buffered.slice(end + 2);
        const field = (name: string) => lines.find((line) => line.startsWith(name))?.slice(name.length);
        const data = field("data: ");
        // A comment keeps the connection open.
        if (data === undefined) continue;
        this.lastId = field("id: ") ?? this.lastId;
        if (data === "[DONE]") return undefined;
        const chunk = JSON.parse(data) as Chunk;
        if (chunk.choices?.[0]?.delta.content) this.firstTokenMs ??= performance.now() - this.startedAt;
        return chunk;
      }
    },
    leave: () => reader.cancel(),
  };
}

/** @throws {Error} when the answer ends with one, or without saying what it was */
export async function readToEnd(stream: ReadStream): Promise<WholeStream> {
  let text = "";
  let session;
  for (let chunk = await stream.next(); chunk; chunk = await stream.next()) {
    if (chunk.error) throw new Error(chunk.error.message);
    text += chunk.choices[0]?.delta.content ?? "";
    session = chunk.hearth?.session ?? session;
  }
  if (!session) throw new Error(`Cannot read the answer: it ended after "${text}" without its end`);
  return { text, ttftMs: stream.firstTokenMs, turn: session.turn, state: session.state_before };
}
