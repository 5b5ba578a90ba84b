/** What the template thread is asked: a template to fill in. Values are strings, booleans, and lists and maps of them. */
export interface RenderRequest {
  /** Jinja source. */
  template: string;
  variables: Readonly<Record<string, unknown>>;
  /** Longest text to give back, in UTF-16 units. */
  maxLength: number;
}

/** What it says: once that it listens, then an answer to each request, in their order. */
export type RenderReply =
  | { type: "ready" }
  | { type: "text"; text: string }
  /** The source is not Jinja. */
  | { type: "unparsable"; message: string }
  /** The template raised an error: it refuses these variables, or it is wrong. */
  | { type: "refused"; message: string }
  /** The text would have been so long. */
  | { type: "too long"; length: number };
