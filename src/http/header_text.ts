import { InvalidRequestError } from "../errors.ts";

/** Text as the value of a header: as it is where that can be, else percent-encoded, as what has a `%` always is. */
export const headerText = (text: string): string =>
  /^[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?$/.test(text) && !text.includes("%") ? text : encodeURIComponent(text);

/**
 * What {@linkcode headerText} made the value of.
 * @param name of the header
 * @throws {InvalidRequestError} when a `%` in it begins no byte of a text
 */
export function textOfHeader(value: string, name: string): string {
  try {
    return decodeURIComponent(value);
  } catch (cause) {
    throw new InvalidRequestError(`Cannot use ${name} "${value}": wanted percent-encoded text`, name, null, { cause });
  }
}
