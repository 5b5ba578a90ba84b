import { ModelFileError } from "../errors.ts";
import { basename, type OpenFile, openFile } from "../host/files.ts";
import { DataLocation, decodeModel, type OnnxModel } from "./onnx_proto.ts";

/** Fields on the way to a tensor's bytes, by their numbers in `onnx.proto`. */
const GRAPH_OF_MODEL = 7;
const INITIALIZER_OF_GRAPH = 5;
const RAW_DATA = 9;
const EXTERNAL_DATA = 13;
const DATA_LOCATION = 14;
/** https://protobuf.dev/programming-guides/encoding/ */
const WireType = { VARINT: 0, FIXED64: 1, LENGTH: 2, FIXED32: 5 } as const;

/** Raw data of fewer bytes is kept as it is. */
const SMALL_BYTES = 1024;
const WINDOW_BYTES = 256 * 1024;
/** Nodes, names and rotary caches in the branches of an If are less than half of it. */
const MAX_KEPT_BYTES = 512 * 2 ** 20;

/**
 * Reads an `.onnx` file without the weights that it holds itself, which may be a gigabyte: raw data of initializers is
 * skipped, and described as external data that lies in this same file.
 * @throws {ModelFileError} when it cannot be read, or is no ONNX file
 */
export function readOnnx(path: string): OnnxModel {
  using file = openGraph(path);
  return decodeModel(new Skeleton(file, path).read());
}

function openGraph(path: string): OpenFile {
  try {
    return openFile(path);
  } catch (cause) {
    throw new ModelFileError(`Cannot read the graph: ${(cause as Error).message}`, { cause });
  }
}

/** Copies a ModelProto field by field, all but the large raw data. */
class Skeleton {
  readonly #file: OpenFile;
  readonly #path: string;
  #window = { start: 0, bytes: new Uint8Array(0) };
  #kept = 0;

  constructor(file: OpenFile, path: string) {
    this.#file = file;
    this.#path = path;
  }

  read(): Uint8Array {
    return this.#message(0, this.#file.size, (field, start, end) =>
      field !== GRAPH_OF_MODEL ? undefined : delimited(
        field,
        this.#message(start, end, (field, start, end) =>
          field !== INITIALIZER_OF_GRAPH ? undefined : delimited(field, this.#tensor(start, end))),
      ));
  }

  #tensor(start: number, end: number): Uint8Array {
    return this.#message(start, end, (field, start, end) => {
      if (field !== RAW_DATA || end - start < SMALL_BYTES) return undefined;
      const place = { location: basename(this.#path), offset: String(start), length: String(end - start) };
      return join([
        ...Object.entries(place).map(([key, value]) => delimited(EXTERNAL_DATA, join([text(1, key), text(2, value)]))),
        varint(DATA_LOCATION << 3 | WireType.VARINT),
        varint(DataLocation.EXTERNAL),
      ]);
    });
  }

  /** Copies the fields of `start..end`; what `replace` makes of a length-delimited one is taken for it. */
  #message(
    start: number,
    end: number,
    replace: (field: number, start: number, end: number) => Uint8Array | undefined,
  ): Uint8Array {
    const parts: Uint8Array[] = [];
    for (let at = start; at < end;) {
      const key = this.#varint(at, end);
      const body = this.#body(key.value & 7, key.end, end);
      const replaced = (key.value & 7) === WireType.LENGTH
        ? replace(Math.floor(key.value / 8), body.start, body.end)
        : undefined;
      parts.push(replaced ?? this.#copy(at, body.end));
      at = body.end;
    }
    return join(parts);
  }

  #body(wireType: number, at: number, end: number): { start: number; end: number } {
    const until = (start: number, length: number) => {
      if (start + length > end) throw this.#damaged(at);
      return { start, end: start + length };
    };
    switch (wireType) {
      case WireType.VARINT:
        return { start: at, end: this.#varint(at, end).end };
      case WireType.FIXED64:
        return until(at, 8);
      case WireType.FIXED32:
        return until(at, 4);
      case WireType.LENGTH: {
        const length = this.#varint(at, end);
        return until(length.end, length.value);
      }
      default:
        throw this.#damaged(at);
    }
  }

  #varint(at: number, end: number): { value: number; end: number } {
    let value = 0;
    for (let i = 0; i < 10 && at + i < end; i++) {
      const byte = this.#byte(at + i);
      value += (byte & 127) * 2 ** (7 * i);
      if (byte < 128) return { value, end: at + i + 1 };
    }
    throw this.#damaged(at);
  }

  #byte(at: number): number {
    const { start, bytes } = this.#window;
    if (at >= start && at < start + bytes.length) return bytes[at - start]!;
    this.#window = { start: at, bytes: this.#fill(at, Math.min(at + WINDOW_BYTES, this.#file.size)) };
    return this.#window.bytes[0]!;
  }

  #copy(start: number, end: number): Uint8Array {
    this.#kept += end - start;
    if (this.#kept > MAX_KEPT_BYTES) {
      throw new ModelFileError(
        `Cannot read the graph ${this.#path}: it has more than ${MAX_KEPT_BYTES} bytes of nodes`,
      );
    }
    const window = this.#window;
    const from = start - window.start;
    if (from >= 0 && end - window.start <= window.bytes.length) return window.bytes.slice(from, from + end - start);
    return this.#fill(start, end);
  }

  #fill(start: number, end: number): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(end - start);
    for (let done = 0; done < bytes.length;) {
      const count = this.#file.read(start + done, bytes.subarray(done));
      if (count === 0) throw this.#damaged(start + done);
      done += count;
    }
    return bytes;
  }

  #damaged(at: number): ModelFileError {
    return new ModelFileError(
      `Cannot decode ONNX model ${this.#path}: what is at byte ${at} is no field of a ModelProto`,
    );
  }
}

function join(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 + 128);
  return Uint8Array.of(...bytes, value);
}

const delimited = (field: number, bytes: Uint8Array) =>
  join([varint(field << 3 | WireType.LENGTH), varint(bytes.length), bytes]);
const text = (field: number, value: string) => delimited(field, new TextEncoder().encode(value));
