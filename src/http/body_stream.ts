/** Options of {@linkcode bodyStream}. */
export interface BodyStreamOptions {
  /** Called once when the client is gone before the end. */
  onCancel(): void;
  /** Sends `comment` whenever nothing was sent for `everyMs` milliseconds, so that no proxy drops a slow answer. */
  keepAlive?: { everyMs: number; comment: string };
}

/**
 * A response body from pieces of text, each sent as soon as it is made. The next piece is asked for only when
 * the client took the last one, so a slow reader slows the generation and nothing piles up.
 * An error of the iterator breaks the body off: the client sees an incomplete response, not a short answer.
 */
export function bodyStream(pieces: AsyncIterator<string>, options: BodyStreamOptions): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let timer: ReturnType<typeof setInterval> | undefined;
  let lastSentAt = performance.now();
  return new ReadableStream({
    start(controller) {
      const { keepAlive } = options;
      if (!keepAlive) return;
      timer = setInterval(() => {
        if (performance.now() - lastSentAt < keepAlive.everyMs) return;
        lastSentAt = performance.now();
        controller.enqueue(encoder.encode(keepAlive.comment));
      }, keepAlive.everyMs / 2);
    },
    async pull(controller) {
      try {
        const { done, value } = await pieces.next();
        if (done) {
          clearInterval(timer);
          controller.close();
        } else {
          lastSentAt = performance.now();
          controller.enqueue(encoder.encode(value));
        }
      } catch (error) {
        clearInterval(timer);
        controller.error(error);
      }
    },
    cancel() {
      clearInterval(timer);
      options.onCancel();
    },
  });
}
