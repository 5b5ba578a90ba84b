import { existsSync, readdirSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { type Browser, chromium } from "playwright-core";
import { PeerMissingError } from "./peer.ts";

/** No window, and nothing that works in the background. */
const FLAGS = [
  "--no-sandbox",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

const NO_GPU = ["--disable-gpu"];
/** WebGPU by the software that Chromium brings. */
const SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"];

/**
 * Starts the Chromium that `CHROMIUM` names, or the one on the path.
 * @param gpu whether pages have WebGPU
 * @throws {PeerMissingError} when there is none
 */
export async function launchChromium({ gpu = false } = {}): Promise<Browser> {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/bin"];
  const found = process.env.CHROMIUM ?? folders.map((folder) => join(folder, "chromium")).find(existsSync);
  if (found === undefined) {
    throw new PeerMissingError("Cannot start a browser: no chromium on the path, wanted one there or in CHROMIUM");
  }
  return await chromium.launch({ executablePath: found, args: [...FLAGS, ...(gpu ? SOFTWARE_GPU : NO_GPU)] });
}

/**
 * Memory of the processes that this one started, and of those that they did: what several share is counted once.
 * Linux only; 0 elsewhere.
 */
export function descendantsMiB(): number {
  if (!existsSync("/proc/self/smaps_rollup")) return 0;
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    const parent = /^PPid:\s+(\d+)/m.exec(readProc(name, "status"));
    if (parent) parents.set(Number(name), Number(parent[1]));
  }
  const isOurs = (pid: number): boolean => {
    const parent = parents.get(pid) ?? 0;
    return parent === process.pid || (parent > 1 && isOurs(parent));
  };
  const kib = [...parents.keys()].filter(isOurs).map((pid) =>
    /^Pss:\s+(\d+)/m.exec(readProc(pid, "smaps_rollup"))?.[1]
  );
  return Math.round(kib.reduce((sum, size) => sum + Number(size ?? 0), 0) / 1024);
}

/** A file of a process; `""` when the process has ended. */
function readProc(pid: number | string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "utf8");
  } catch {
    return "";
  }
}
