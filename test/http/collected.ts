import { setImmediate } from "node:timers/promises";
import { collectGarbage } from "../../bench/collect_garbage.ts";

/** Whether the collector takes nine tenths of them: a few may still lie on the stack. */
export async function collected(refs: readonly WeakRef<object>[]): Promise<boolean> {
  for (let tries = 0; tries < 20; tries++) {
    await setImmediate();
    collectGarbage();
    if (refs.filter((ref) => ref.deref()).length < refs.length / 10) return true;
  }
  return false;
}
