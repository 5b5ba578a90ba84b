import { ModelFileError } from "../errors.ts";
import { dirname, insideFolder, isAbsolute, realPath, resolve, sep } from "../host/files.ts";
import { DataLocation, DataType, type OnnxTensor } from "./onnx_proto.ts";

/** Bytes of an element, for the types that weights come in. */
const ELEMENT_BYTES: Readonly<Record<number, number>> = {
  [DataType.FLOAT]: 4,
  [DataType.UINT8]: 1,
  [DataType.INT8]: 1,
  [DataType.INT32]: 4,
  [DataType.INT64]: 8,
  [DataType.BOOL]: 1,
  [DataType.FLOAT16]: 2,
};

/** Where a tensor's bytes lie, checked: inside the model folder, inside the file, as long as its shape takes. */
export interface ExternalRange {
  path: string;
  offset: number;
  length: number;
}

/** Bytes that a tensor's shape and type take. @throws {ModelFileError} for types that are not for weights */
export function tensorByteLength({ name, dims, dataType }: OnnxTensor): number {
  const elementBytes = ELEMENT_BYTES[dataType];
  if (elementBytes === undefined) {
    throw new ModelFileError(`Cannot use tensor ${name}: its element type is ${dataType}`);
  }
  return dims.reduce((product, dim) => product * dim, elementBytes);
}

/**
 * Where the data of a tensor outside the `.onnx` file lies; `undefined` for one inside.
 * Model files come from strangers: a path that leads out of the folder, by `..` or by a link, is refused.
 * https://onnx.ai/onnx/repo-docs/ExternalData.html
 * @param onnxPath the `.onnx` file that the tensor is in
 * @throws {ModelFileError} when path, offset or length are not what they have to be
 */
export function externalRange(tensor: OnnxTensor, onnxPath: string): ExternalRange | undefined {
  if (tensor.dataLocation !== DataLocation.EXTERNAL) return undefined;
  const field = (key: string) => tensor.externalData?.find((entry) => entry.key === key)?.value;
  const location = field("location") ?? "";
  const folder = dirname(onnxPath);
  const path = resolve(folder, location);
  if (location === "" || isAbsolute(location) || !insideFolder(folder, path)) {
    throw new ModelFileError(
      `Cannot read tensor ${tensor.name}: its data is at "${location}", outside the model folder`,
    );
  }
  const wanted = tensorByteLength(tensor);
  const offset = Number(field("offset") ?? 0);
  const length = Number(field("length") ?? wanted);
  if (!Number.isSafeInteger(offset) || offset < 0 || length !== wanted) {
    throw new ModelFileError(
      `Cannot read tensor ${tensor.name}: offset ${field("offset")} and length ${field("length")}, ` +
        `wanted ${wanted} bytes for its shape [${tensor.dims.join(", ")}]`,
    );
  }
  return { path, offset, length };
}

/**
 * Where the weights of a model folder may lie once links are followed: in the folder and, for a snapshot of the cache
 * that huggingface_hub shares, in the same model's blobs.
 * https://huggingface.co/docs/huggingface_hub/guides/manage-cache
 */
export function weightFolders(folder: string): string[] {
  const real = realPath(folder);
  const parts = real.split(sep);
  const model = parts.findLastIndex((part) => part.startsWith("models--"));
  const isSnapshot = model >= 0 && parts[model + 1] === "snapshots" && /^[0-9a-f]{40}$/.test(parts[model + 2] ?? "");
  return isSnapshot ? [real, [...parts.slice(0, model + 1), "blobs"].join(sep)] : [real];
}
