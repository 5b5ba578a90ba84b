import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";

const { Bun } = globalThis as { Bun?: { gc(force: boolean): void } };

/** V8 shows its collector only to contexts that are made once it is told to. */
function v8Collector(): () => void {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
}

/** Collects all garbage of this thread, now: what is left is held. */
export const collectGarbage: () => void = Bun ? () => Bun.gc(true) : v8Collector();
