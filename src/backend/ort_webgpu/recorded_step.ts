/**
 * The commands of a step of decode, kept on this side. onnxruntime-web 1.30.0 replays a captured graph 16 dispatches at a
 * time, each lot with an encoder, a compute pass and a submission of its own: 19 of them for Phi-3-mini. Encoded here
 * they are one. onnxruntime keeps the buffers that they name, because it captured them; see `graph_capture.ts`.
 */
import { observe } from "./observe.ts";

/** A shader's run, with all that it needs. */
interface Dispatch {
  pipeline: GPUComputePipeline;
  group: GPUBindGroup;
  /** Workgroups in x, y and z, or a buffer that says so from a byte on. */
  workgroups: readonly [number, number, number] | { buffer: GPUBuffer; offset: number };
}

/** What one replay of a captured graph gives the GPU. */
export class RecordedStep {
  readonly #dispatches: readonly Dispatch[];

  private constructor(dispatches: readonly Dispatch[]) {
    this.#dispatches = dispatches;
  }

  /**
   * Lets `run` go on as it would and writes down what it encodes.
   * @returns nothing when that was more than dispatches: then it was no replay
   */
  static async of(device: GPUDevice, run: () => Promise<unknown>): Promise<RecordedStep | undefined> {
    const dispatches: Dispatch[] = [];
    let replays = true;
    const spoil = () => void (replays = false);
    const watchPass = (pass: GPUComputePassEncoder) => {
      let pipeline: GPUComputePipeline | undefined;
      let group: GPUBindGroup | undefined;
      const add = (workgroups: Dispatch["workgroups"]) => {
        if (pipeline && group) dispatches.push({ pipeline, group, workgroups });
        else spoil();
      };
      observe(pass, "setPipeline", ([given]) => void (pipeline = given));
      observe(pass, "setBindGroup", ([index, given, ...offsets]) => {
        if (index !== 0 || !given || offsets.length > 0) spoil();
        else group = given;
      });
      observe(pass, "dispatchWorkgroups", ([x, y = 1, z = 1]) => add([x, y, z]));
      observe(pass, "dispatchWorkgroupsIndirect", ([buffer, offset]) => add({ buffer, offset }));
    };
    const undo = [
      observe(device, "createCommandEncoder", (_, encoder) => {
        observe(encoder, "beginComputePass", (_, pass) => watchPass(pass));
        observe(encoder, "copyBufferToBuffer", spoil);
        observe(encoder, "clearBuffer", spoil);
      }),
      observe(device, "createBindGroup", spoil),
      observe(device, "createBuffer", spoil),
      observe(device.queue, "writeBuffer", spoil),
    ];
    try {
      await run();
    } finally {
      undo.forEach((restore) => restore());
    }
    return replays && dispatches.length > 0 ? new RecordedStep(dispatches) : undefined;
  }

  encode(encoder: GPUCommandEncoder): void {
    const pass = encoder.beginComputePass();
    for (const { pipeline, group, workgroups } of this.#dispatches) {
      pass.setPipeline(pipeline);
      pass.setBindGroup(0, group);
      if ("buffer" in workgroups) pass.dispatchWorkgroupsIndirect(workgroups.buffer, workgroups.offset);
      else pass.dispatchWorkgroups(...workgroups);
    }
    pass.end();
  }
}
