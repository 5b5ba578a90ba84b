import { readFileSync } from "node:fs";
import { availableParallelism, totalmem } from "node:os";

/** A small file's text; `undefined` where the system has no such file. */
export type ReadText = (path: string) => string | undefined;

const readText: ReadText = (path) => {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
};

/**
 * CPUs that this process may use: the cgroup's CPU quota rounded up, at most the cores it can be scheduled on.
 * In a container `navigator.hardwareConcurrency` tells the host's cores, and threads beyond the quota only
 * get each other throttled.
 * cgroup v2: https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
 */
export function availableCpus(read: ReadText = readText, cores: number = availableParallelism()): number {
  const quotas = cgroupPaths(read).flatMap((folder) => {
    const [quota, period] = (read(`${folder}/cpu.max`) ?? "max").split(" ").map(Number);
    return quota && period ? [quota / period] : [];
  });
  const v1Quota = Number(read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") ?? -1);
  const v1Period = Number(read("/sys/fs/cgroup/cpu/cpu.cfs_period_us") ?? 0);
  if (v1Quota > 0 && v1Period > 0) quotas.push(v1Quota / v1Period);
  return Math.max(1, Math.min(cores, ...quotas.map(Math.ceil)));
}

/**
 * Bytes that this process can still take: free system memory, or less where a cgroup limit is nearer.
 */
export function availableMemoryBytes(read: ReadText = readText, total: number = totalmem()): number {
  const meminfo = /^MemAvailable:\s+(\d+) kB/m.exec(read("/proc/meminfo") ?? "");
  const free = [meminfo ? Number(meminfo[1]) * 1024 : total];
  for (const folder of cgroupPaths(read)) {
    const limit = Number(read(`${folder}/memory.max`) ?? NaN);
    const used = Number(read(`${folder}/memory.current`) ?? 0);
    if (Number.isFinite(limit)) free.push(limit - used);
  }
  const v1Limit = Number(read("/sys/fs/cgroup/memory/memory.limit_in_bytes") ?? NaN);
  // cgroup v1 writes "no limit" as a number near 2^63.
  if (v1Limit < total) free.push(v1Limit - Number(read("/sys/fs/cgroup/memory/memory.usage_in_bytes") ?? 0));
  return Math.max(0, Math.min(...free));
}

/** The process's own cgroup v2 folder and its parents: a limit on any of them counts. */
function cgroupPaths(read: ReadText): string[] {
  const own = /^0::(\/.*)$/m.exec(read("/proc/self/cgroup") ?? "")?.[1] ?? "/";
  const parts = own.split("/").filter(Boolean);
  return Array.from({ length: parts.length + 1 }, (_, n) => ["/sys/fs/cgroup", ...parts.slice(0, n)].join("/"));
}
