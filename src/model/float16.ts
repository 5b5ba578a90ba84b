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

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);

/** The bits of the binary16 nearest to an f32 `value`, ties to even; too large becomes infinite. */
export function numberToFloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  float[0] = value;
  const sign = (floatBits[0]! >>> 16) & 0x8000;
  const magnitude = Math.abs(float[0]!);
  if (magnitude >= 65520) return sign | 0x7c00;
  // Below 2^-14 the exponent stays and the mantissa loses its leading one.
  const exponent = Math.max(((floatBits[0]! >>> 23) & 0xff) - 127, -14);
  const scaled = magnitude * 2 ** (10 - exponent);
  const floor = Math.floor(scaled);
  const rest = scaled - floor;
  const rounded = floor + (rest > 0.5 || (rest === 0.5 && (floor & 1) === 1) ? 1 : 0);
  // A mantissa of 1024..2048 carries its leading one into the exponent.
  return sign | (((exponent + 14) << 10) + rounded);
}

/** Bits of the f32 magnitudes that are normal numbers in f16: from 2^-14 to what is rounded to infinity, 65520. */
const [LEAST_NORMAL, TOO_LARGE] = [0x3880_0000, 0x477f_f000];
/** The difference of the exponents' biases, 127 and 15, where f32 has its exponent. */
const REBIAS = 112 << 23;

/** The bits of each of `values` as the nearest binary16; as `numberToFloat16`, and fast for many. */
export function float16Array(values: Float32Array): Uint16Array<ArrayBuffer> {
  const { buffer, byteOffset, length } = values;
  const bits = new Uint32Array(buffer, byteOffset, length);
  const halves = new Uint16Array(length);
  for (let i = 0; i < length; i++) {
    const magnitude = bits[i]! & 0x7fff_ffff;
    if (magnitude >= LEAST_NORMAL && magnitude < TOO_LARGE) {
      // To nearest, ties to even, in the 13 bits that go; what that carries belongs to the exponent.
      const rounded = magnitude + 0xfff + ((magnitude >>> 13) & 1);
      halves[i] = ((bits[i]! >>> 16) & 0x8000) | ((rounded - REBIAS) >>> 13);
    } else {
      halves[i] = numberToFloat16(values[i]!);
    }
  }
  return halves;
}
