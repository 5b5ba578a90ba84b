import { readFileSync } from "node:fs";

/** A figure of this process on Linux in MiB: `VmRSS`, what is resident now, or `VmHWM`, the most that ever was. */
export function statusMiB(field: "VmRSS" | "VmHWM"): number {
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, "m").exec(readFileSync("/proc/self/status", "utf8"))![1]) / 1024;
}
