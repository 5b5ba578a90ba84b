import assert from "node:assert/strict";
import { test } from "node:test";
import { availableCpus, availableMemoryBytes } from "../../src/backend/host_resources.ts";

/** A system with just these files. */
const system = (files: Record<string, string>) => (path: string) => files[path];

test("availableCpus() rounds the cgroup's quota up", () => {
  assert.equal(availableCpus(system({ "/sys/fs/cgroup/cpu.max": "150000 100000" }), 64), 2);
  assert.equal(availableCpus(system({ "/sys/fs/cgroup/cpu.max": "20000 100000" }), 64), 1);
  assert.equal(availableCpus(system({ "/sys/fs/cgroup/cpu.max": "max 100000" }), 6), 6);
  assert.equal(availableCpus(system({}), 3), 3);
});

test("availableCpus() takes the tightest of the process's own cgroups", () => {
  const files = {
    "/proc/self/cgroup": "0::/kube/pod",
    "/sys/fs/cgroup/kube/cpu.max": "800000 100000",
    "/sys/fs/cgroup/kube/pod/cpu.max": "300000 100000",
  };
  assert.equal(availableCpus(system(files), 64), 3);
});

test("availableCpus() reads cgroup v1", () => {
  const files = { "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000", "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000" };
  assert.equal(availableCpus(system(files), 64), 3);
});

test("availableMemoryBytes() is the nearest limit", () => {
  const meminfo = { "/proc/meminfo": "MemTotal: 16 kB\nMemAvailable:    1000 kB\n" };
  assert.equal(availableMemoryBytes(system(meminfo), 1e9), 1_024_000);
  const limited = { ...meminfo, "/sys/fs/cgroup/memory.max": "600000", "/sys/fs/cgroup/memory.current": "100000" };
  assert.equal(availableMemoryBytes(system(limited), 1e9), 500_000);
  assert.equal(availableMemoryBytes(system({ ...meminfo, "/sys/fs/cgroup/memory.max": "max" }), 1e9), 1_024_000);
  const unlimited = { "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712" };
  assert.equal(availableMemoryBytes(system(unlimited), 1e9), 1e9);
});

test("the real machine has CPUs and memory", () => {
  assert.ok(availableCpus() >= 1);
  assert.ok(availableMemoryBytes() > 2 ** 20);
});
