/** In a page `runtime/browser/event_loop.ts` takes the place of this module. */
import { setImmediate } from "node:timers";

/** A turn of the event loop: what waits for messages and promises runs. */
export function eventLoopTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
