import { ModelFileError } from "../errors.ts";
import { dirname, insideFolder, type OpenFile, openFile, realPath } from "../host/files.ts";
import { externalRange, tensorByteLength, weightFolders } from "./external_tensor.ts";
import type { OnnxTensor } from "./onnx_proto.ts";

/** A tensor's bytes, read in parts: where they are gigabytes, nobody has to hold them twice. */
export interface TensorBytes {
  readonly length: number;
  /**
   * Fills `into`, which may lie in shared memory, with the bytes from `at` on.
   * @throws {ModelFileError} when the file ends before
   */
  read(at: number, into: Uint8Array): void;
}

/** The files that tensors of one graph lie in, each opened once. Dispose when all is read. */
export class TensorFiles implements Disposable {
  readonly #onnxPath: string;
  readonly #open = new Map<string, OpenFile>();

  /** @param onnxPath the `.onnx` file that the tensors are in */
  constructor(onnxPath: string) {
    this.#onnxPath = onnxPath;
  }

  /**
   * Where a tensor's bytes are, checked.
   * @throws {ModelFileError} when they are not there, or outside the model folder
   */
  bytesOf(tensor: OnnxTensor): TensorBytes {
    const range = externalRange(tensor, this.#onnxPath);
    if (!range) {
      const { rawData, name } = tensor;
      if (!rawData) throw new ModelFileError(`Cannot read tensor ${name}: it has no raw data`);
      const wanted = tensorByteLength(tensor);
      if (rawData.length !== wanted) {
        throw new ModelFileError(`Cannot read tensor ${name}: it has ${rawData.length} bytes, wanted ${wanted}`);
      }
      return { length: rawData.length, read: (at, into) => into.set(rawData.subarray(at, at + into.length)) };
    }
    const { path, offset, length } = range;
    const file = this.#file(path);
    if (offset + length > file.size) {
      throw new ModelFileError(
        `Cannot read weights from ${path}: it has ${file.size} bytes, wanted ${offset + length}`,
      );
    }
    return {
      length,
      read: (at, into) => {
        for (let done = 0; done < into.length;) {
          const count = file.read(offset + at + done, into.subarray(done));
          if (count === 0) {
            throw new ModelFileError(`Cannot read weights from ${path}: it ends at ${offset + at + done}`);
          }
          done += count;
        }
      },
    };
  }

  #file(path: string): OpenFile {
    const known = this.#open.get(path);
    if (known) return known;
    try {
      const real = realPath(path);
      if (!weightFolders(dirname(this.#onnxPath)).some((folder) => insideFolder(folder, real))) {
        throw new Error("it is a link out of the model folder");
      }
      const file = openFile(path);
      this.#open.set(path, file);
      return file;
    } catch (cause) {
      throw new ModelFileError(`Cannot read weights from ${path}: ${(cause as Error).message}`, { cause });
    }
  }

  [Symbol.dispose](): void {
    for (const file of this.#open.values()) file[Symbol.dispose]();
    this.#open.clear();
  }
}
