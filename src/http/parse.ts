import { z } from "zod";
import { InvalidRequestError } from "../errors.ts";

/**
 * Checks untrusted input.
 * @param name what it is, where it is no body
 * @throws {InvalidRequestError} with the first wrong field
 */
export function parse<T>(schema: z.ZodType<T>, body: unknown, name?: string): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = deepest(result.error.issues[0]!);
  const param = issue.path.join(".") || (name ?? null);
  throw new InvalidRequestError(`Cannot use ${param ?? "the body"}: ${issue.message}`, param);
}

/** Inside a union the useful complaint is the one that got furthest. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== "invalid_union") return issue;
  const inner = issue.errors.flat().map((e) => deepest({ ...e, path: [...issue.path, ...e.path] }));
  return inner.sort((a, b) => b.path.length - a.path.length)[0] ?? issue;
}

/** Leaves out what is `null` or `undefined`. */
export function defined<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}
