/** How far a download is. */
export interface TransferState {
  /** The file that is coming. */
  file: string;
  /** Bytes that are there, and of all. */
  done: number;
  total: number;
  /** Over the last seconds; 0 until something came. */
  bytesPerSecond: number;
}

const WINDOW_MS = 10_000;

/** Counts bytes, and measures their speed over the last ten seconds. */
export class TransferMeter {
  file = "";
  #done = 0;
  readonly #startedAt: number;
  /** `[time, bytes that came in all]`, oldest first. */
  readonly #marks: [number, number][] = [];
  #came = 0;

  /** @param now a clock in milliseconds */
  constructor(readonly total: number, private readonly now: () => number = () => performance.now()) {
    this.#startedAt = now();
  }

  /** Bytes that came over the network just now. */
  came(count: number): void {
    this.#done += count;
    if (count < 0) return;
    this.#came += count;
    const time = this.now();
    if (time - (this.#marks.at(-1)?.[0] ?? -Infinity) >= 100) this.#marks.push([time, this.#came]);
    while (this.#marks.length > 2 && time - this.#marks[0]![0] > WINDOW_MS) this.#marks.shift();
  }

  /** Bytes that were there before. */
  had(count: number): void {
    this.#done += count;
  }

  state(): TransferState {
    const [since, before] = this.#marks.length > 1 ? this.#marks[0]! : [this.#startedAt, 0];
    const seconds = (this.now() - since) / 1000;
    const bytesPerSecond = seconds > 0 ? (this.#came - before) / seconds : 0;
    return { file: this.file, done: this.#done, total: this.total, bytesPerSecond };
  }
}

/** `1.2 GB`: decimal units, as the hub's pages have them. */
export function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (bytes >= 999.5 && at < units.length - 1) {
    bytes /= 1000;
    at++;
  }
  return `${at > 0 && bytes < 9.95 ? bytes.toFixed(1) : Math.round(bytes)} ${units[at]}`;
}

/** `onnx/model_q4.onnx_data: 42%, 1.1 of 2.7 GB, 31 MB/s, 52 s left`. */
export function formatTransfer({ file, done, total, bytesPerSecond }: TransferState): string {
  const percent = total > 0 ? Math.floor((100 * done) / total) : 100;
  const amount = `${percent}%, ${formatBytes(done)} of ${formatBytes(total)}`;
  if (bytesPerSecond < 1) return `${file}: ${amount}`;
  return `${file}: ${amount}, ${formatBytes(bytesPerSecond)}/s, ${formatTime((total - done) / bytesPerSecond)} left`;
}

function formatTime(seconds: number): string {
  if (seconds < 60) return `${Math.ceil(seconds)} s`;
  if (seconds < 3600) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.ceil((seconds % 3600) / 60)} min`;
}
