import { InvalidRequestError } from "../errors.ts";

/** An event of a stream. */
export interface EventPosition {
  streamId: string;
  number: number;
}

/** The id of a stream's event: which stream, and which of its events. */
export const eventId = (streamId: string, number: number): string => `${streamId}.${number}`;

/**
 * Reads a `Last-Event-ID` header.
 * @throws {InvalidRequestError} when no stream sends such ids
 */
export function parseEventId(text: string): EventPosition {
  const [, streamId, number] = /^(.{1,100})\.(\d{1,9})$/.exec(text) ?? [];
  if (streamId === undefined) {
    throw new InvalidRequestError(
      `Cannot resume after event "${text}": wanted the id of an event that a stream here sent`,
      "last-event-id",
      "invalid_event_id",
    );
  }
  return { streamId, number: Number(number) };
}
