import process from "node:process";
import { formatTransfer, type TransferState } from "../hub/transfer_meter.ts";

/** Shows how far a download is. */
export interface TransferLine {
  show(state: TransferState): void;
  /** Leaves the terminal clean. */
  end(): void;
}

const BAR_CELLS = 24;
const TERMINAL_MS = 100;
const LOG_MS = 5000;

/** On a terminal, a bar that is drawn over itself; elsewhere a line every five seconds. Written to standard error. */
export function transferLine(): TransferLine {
  const { stderr } = process;
  let shownAt = -Infinity;
  let drawn = false;
  return {
    show(state) {
      const now = performance.now();
      if (now - shownAt < (stderr.isTTY ? TERMINAL_MS : LOG_MS)) return;
      shownAt = now;
      drawn = true;
      stderr.write(stderr.isTTY ? `\r\x1b[K${bar(state)} ${formatTransfer(state)}` : `${formatTransfer(state)}\n`);
    },
    end() {
      if (drawn && stderr.isTTY) stderr.write("\r\x1b[K");
      drawn = false;
    },
  };
}

function bar({ done, total }: TransferState): string {
  const full = total > 0 ? Math.floor((BAR_CELLS * done) / total) : BAR_CELLS;
  return `[${"#".repeat(full)}${"-".repeat(BAR_CELLS - full)}]`;
}
