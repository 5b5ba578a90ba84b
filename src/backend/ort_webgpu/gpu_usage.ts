/** Flags of `GPUBufferUsage`; the namespace itself is missing from TypeScript's DOM. https://www.w3.org/TR/webgpu/#buffer-usage */
export const Usage = {
  MAP_READ: 0x0001,
  MAP_WRITE: 0x0002,
  COPY_SRC: 0x0004,
  COPY_DST: 0x0008,
  UNIFORM: 0x0040,
  STORAGE: 0x0080,
} as const;

/** `GPUMapMode.READ`. */
export const MAP_MODE_READ = 0x0001;
