import { InvalidRequestError } from "../errors.ts";

/**
 * The JSON body of a request.
 * @throws {InvalidRequestError} when it is not JSON
 */
export async function readJson(request: Request): Promise<unknown> {
  const text = await request.text();
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new InvalidRequestError(`Cannot read the body: ${(cause as Error).message}`, null, "invalid_json", { cause });
  }
}
