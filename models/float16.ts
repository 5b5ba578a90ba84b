/**
 * The value of an IEEE 754 binary16 (1 sign, 5 exponent, 10 mantissa bits); exact, every f16 is also an f32.
 * https://en.wikipedia.org/wiki/Half-precision_floating-point_format
 */
export function float16ToNumber(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const mantissa = bits & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 0x1f) return mantissa === 0 ? sign * Infinity : NaN;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}
