import { Buffer } from "node:buffer";

/**
 * A WebAssembly module but for its section `producers`: wasm-bindgen says there which release of a library it was built
 * with. https://webassembly.github.io/spec/core/binary/modules.html#sections
 */
export function withoutProducers(wasm: Buffer): Buffer {
  const kept = [wasm.subarray(0, 8)];
  // Unsigned LEB128, https://webassembly.github.io/spec/core/binary/values.html#integers
  const numberAt = (at: number) => {
    let value = 0;
    for (let shift = 0;; shift += 7) {
      const byte = wasm[at++]!;
      value += (byte & 127) * 2 ** shift;
      if (byte < 128) return { value, end: at };
    }
  };
  for (let at = 8; at < wasm.length;) {
    const size = numberAt(at + 1);
    const end = size.end + size.value;
    const name = numberAt(size.end);
    const isProducers = wasm[at] === 0 && wasm.subarray(name.end, name.end + name.value).toString() === "producers";
    if (!isProducers) kept.push(wasm.subarray(at, end));
    at = end;
  }
  return Buffer.concat(kept);
}
