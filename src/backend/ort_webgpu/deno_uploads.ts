/**
 * onnxruntime-web uploads weights through buffers that are mapped when they are made, and in Deno 2.9.6 their
 * `getMappedRange()` reads 23 MB/s out of the GPU's memory: 122 s for Phi-3-mini, of which 98 are spent there. Written
 * through the queue it is 3 s.
 */
import { Usage } from "./gpu_usage.ts";

/** What onnxruntime-web 1.30.0 makes its upload buffers with. */
const UPLOAD = Usage.MAP_WRITE | Usage.COPY_SRC;

/** Makes buffers for uploads of this device such that their contents go through its queue. Elsewhere nothing happens. */
export function avoidMappedUploads(device: GPUDevice): void {
  if (!navigator.userAgent.startsWith("Deno/")) return;
  const create = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    if (!descriptor.mappedAtCreation || descriptor.usage !== UPLOAD) return create(descriptor);
    const buffer = create({ size: descriptor.size, usage: Usage.COPY_SRC | Usage.COPY_DST });
    const contents = new ArrayBuffer(descriptor.size);
    buffer.getMappedRange = (offset = 0, size = descriptor.size - offset) =>
      offset === 0 && size === descriptor.size ? contents : outOfRange(offset, size);
    buffer.unmap = () => device.queue.writeBuffer(buffer, 0, contents);
    return buffer;
  };
}

/** onnxruntime-web maps a whole buffer, and a part of one could not be written back. */
function outOfRange(offset: number, size: number): never {
  throw new RangeError(`Cannot map ${size} bytes from ${offset} of an upload buffer: wanted all of it`);
}
