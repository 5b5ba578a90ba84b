const MAX_BYTES = 256;

/** What {@linkcode isSessionId} wants. */
export const WANTED_SESSION_ID =
  `wanted 1 to ${MAX_BYTES} bytes of well-formed text without control characters, and not "." or ".."`;

/** Whether text from outside may name a session: URLs and headers have to be able to say it. */
export function isSessionId(id: string): boolean {
  const { length } = new TextEncoder().encode(id);
  // Dots alone are a path to somewhere else, escaped or not.
  const isPath = id === "." || id === "..";
  return length > 0 && length <= MAX_BYTES && id.isWellFormed() && !isPath && !/\p{Cc}/u.test(id);
}
