/**
 * Deno's WebGPU also finds OpenGL drivers, and takes one where there is no other. Mesa 22.3's, which a machine without a
 * GPU often has, spends minutes of a core on compiling one of onnxruntime-web 1.30.0's shaders (Deno 2.9.6).
 */
const WITHOUT_OPENGL = "vulkan,metal,dx12";

/**
 * Before the first adapter is asked for, and on the main thread: others have a copy of its environment, which Deno does
 * not look at. What the variable says already holds. Other runtimes do not know it.
 */
export function leaveOutOpenGl(): void {
  // In a page there is no process.
  const { process } = globalThis as { process?: { env: Record<string, string | undefined> } };
  if (process) process.env.DENO_WEBGPU_BACKEND ??= WITHOUT_OPENGL;
}
