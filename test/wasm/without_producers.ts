import { Buffer } from "node:buffer";

/**
 * A WebAssembly module but for its section `producers`: wasm-bindgen says there which release of a library it was built
 * with. https://webassembly.github.io/spec/core/binary/modules.html#sections
 * @throws {RangeError} when the module ends within a section
 */
export function withoutProducers(wasm: Buffer): Buffer {
  const kept = [wasm.subarray(0, 8)];
  const requireEnd = (end: number) => {
    if (end > wasm.length) throw new RangeError(`Cannot read the module: it has ${wasm.length} bytes, wanted ${end}`);
  };
  // Unsigned LEB128, https://webassembly.github.io/spec/core/binary/values.html#integers
  const numberAt = (at: number) => {
    let value = 0;
    for (let shift = 0;; shift += 7) {
      requireEnd(at + 1);
      const byte = wasm[at++]!;
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return { value, end: at };
    }
  };
  /** Of a custom section. */
  const nameAt = (at: number) => {
    const { value, end } = numberAt(at);
    return wasm.subarray(end, end + value).toString();
  };
  for (let at = 8; at < wasm.length;) {
    const size = numberAt(at + 1);
    const end = size.end + size.value;
    requireEnd(end);
    if (wasm[at] !== 0 || nameAt(size.end) !== "producers") kept.push(wasm.subarray(at, end));
    at = end;
  }
  return Buffer.concat(kept);
}
