import { openFile } from "../host/files.ts";

/** The bytes of a file. @throws when it cannot be read, or ends early */
export function readWhole(path: string): Uint8Array<ArrayBuffer> {
  using file = openFile(path);
  const bytes = new Uint8Array(file.size);
  for (let done = 0; done < bytes.length;) {
    const count = file.read(done, bytes.subarray(done));
    if (count === 0) throw new Error(`${path} ends at byte ${done}`);
    done += count;
  }
  return bytes;
}
