/** Controls, formats (which turn the direction of text, or are not seen at all), lone surrogates, ends of lines. */
export const UNPRINTABLE: RegExp = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u;

/** What a hub says as it may be shown: what would steer a terminal, or look like other text, is spelled `\u{…}`. */
export const printable = (text: string): string =>
  text.replace(new RegExp(UNPRINTABLE, "gu"), (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
