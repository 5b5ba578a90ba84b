import type { BackendInfo } from "../backend/backend.ts";
import { createEngine } from "../engine/create_engine.ts";
import type { Engine } from "../engine/engine.ts";
import {
  BackendUnavailableError,
  DownloadError,
  InvalidRequestError,
  ModelFileError,
  OutOfMemoryError,
  StorageError,
} from "../errors.ts";
import { createApp } from "../http/app.ts";
import { formatTransfer } from "../hub/transfer_meter.ts";
import type { RecoveredSessions } from "../session/session_files.ts";
import { parseEnvironment, type ServerOptions } from "./options.ts";
import { readPublicPrompts } from "./public_prompts_file.ts";
import { transferLine } from "./transfer_line.ts";

/** A listening socket of one of the runtimes. */
export interface Listener {
  port: number;
  /** Stops accepting; resolves when open responses have ended. */
  stop(): Promise<void>;
}

/** Opens a socket and serves `fetch` on it. Throws the runtime's own error when it cannot. */
export type Listen = (options: {
  hostname: string;
  port: number;
  fetch: (request: Request) => Response | Promise<Response>;
}) => Listener;

/** How long running answers may go on after SIGTERM, in milliseconds. */
const DRAIN_GRACE_MS = 10_000;

/** Errors that say all there is to say in one sentence. */
const EXPECTED = [
  RangeError,
  DownloadError,
  InvalidRequestError,
  ModelFileError,
  OutOfMemoryError,
  BackendUnavailableError,
  StorageError,
];

/**
 * The whole process: environment -> socket -> engine -> signals. Ends the process with status 1 and one
 * sentence when it cannot start.
 */
export async function serve(listen: Listen, runtime: string): Promise<void> {
  try {
    await start(parseEnvironment(process.env), listen, runtime);
  } catch (error) {
    console.error(EXPECTED.some((type) => error instanceof type) ? (error as Error).message : error);
    process.exit(1);
  }
}

async function start(options: ServerOptions, listen: Listen, runtime: string): Promise<void> {
  const startedAt = performance.now();
  const engine = Promise.withResolvers<Engine>();
  // The failure is reported below; without a handler here the runtime would end the process first.
  engine.promise.catch(() => {});
  let loading = "the model is loading";
  const { apiKey, apiKeys, publicPromptsFile } = options;
  const publicPrompts = publicPromptsFile === undefined ? [] : await readPublicPrompts(publicPromptsFile);
  const app = createApp(engine.promise, { apiKey, apiKeys, loading: () => loading });
  const listener = bind(listen, options, app.fetch);
  const url = `http://${options.host.includes(":") ? `[${options.host}]` : options.host}:${listener.port}`;

  const transfer = transferLine();
  const showProgress = progressLine();
  const ready = createEngine({
    ...options,
    publicPrompts,
    onTransfer: (state) => {
      loading = `the model is being pulled: ${formatTransfer(state)}`;
      transfer.show(state);
    },
    onProgress: (step, fraction) => {
      loading = "the model is loading";
      transfer.end();
      showProgress?.(step, fraction);
    },
    onCrash: ({ message }) => console.error(message),
    onRecover: reportRecovered,
  });
  stopOnSignals(listener, ready);
  const loaded = await ready;
  engine.resolve(loaded);

  const { info } = loaded.backend;
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  console.log(`Hearth on ${url} (${runtime}, ready after ${seconds} s)
  model    ${loaded.model.id}, context of ${loaded.model.config.contextLength} tokens
  backend  ${info.name}, ${info.reason}
           ${info.detail}${info.device === undefined ? "" : `\n  device   ${info.device}`}
  threads  ${info.threads}${options.threads ? " (THREADS)" : " (the CPU quota)"}${publicLine(publicPrompts, info)}

Try it:
  ${curlLine(url, options.apiKey !== undefined || options.apiKeys.length > 0)}
`);
}

/** What becomes of `PUBLIC_PROMPTS`. */
function publicLine({ length }: readonly string[], { name, kvShares }: BackendInfo): string {
  if (length === 0) return "";
  const what = kvShares ? "evaluated once for all tenants" : `evaluated in each session: ${name} shares no KV`;
  return `\n  public   ${length} system prompt${length > 1 ? "s" : ""}, ${what}`;
}

/** Says what of `DATA_DIR` cannot be served: nothing of it goes silently. */
function reportRecovered({ cut, unreadable }: RecoveredSessions): void {
  if (cut > 0) console.error(`${cut} sessions had a turn that was being written when the process died: it is cut off`);
  for (const { key, reason } of unreadable) console.error(`Cannot read session ${key}.log, it stays: ${reason}`);
}

function bind(listen: Listen, { host, port }: ServerOptions, fetch: Parameters<Listen>[0]["fetch"]): Listener {
  try {
    return listen({ hostname: host, port, fetch });
  } catch (cause) {
    const { code, message } = cause as Error & { code?: string };
    const inUse = code === "EADDRINUSE" || /in use/i.test(message);
    throw new RangeError(
      inUse
        ? `Cannot listen on ${host}:${port}: the port is in use; stop the other program or set PORT`
        : `Cannot listen on ${host}:${port}: ${message}`,
      { cause },
    );
  }
}

/** A line to paste: `-N` shows each token as it comes. */
function curlLine(url: string, needsKey: boolean): string {
  const key = needsKey ? ` -H "authorization: Bearer $API_KEY"` : "";
  const body = JSON.stringify({ messages: [{ role: "user", content: "Why is the sky blue?" }], session: "demo" });
  return `curl -N ${url}/v1/generate -H "content-type: application/json"${key} -d '${body}'`;
}

function progressLine(): ((step: string, fraction: number) => void) | undefined {
  if (!process.stderr.isTTY) return undefined;
  return (step, fraction) => {
    const done = fraction >= 1;
    process.stderr.write(`\r\x1b[K${done ? "" : `${step} ${Math.floor(fraction * 100)}%`}`);
  };
}

/** SIGTERM and SIGINT: no new answers, running ones get time to end, then everything is released. */
function stopOnSignals(listener: Listener, ready: Promise<Engine>): void {
  let stopping = false;
  const stop = async () => {
    // A second signal does not wait.
    if (stopping) process.exit(130);
    stopping = true;
    const closed = listener.stop();
    const engine = await Promise.race([ready, Promise.resolve(undefined)]).catch(() => undefined);
    await engine?.drain(DRAIN_GRACE_MS);
    await closed;
    await engine?.[Symbol.asyncDispose]();
    process.exit(0);
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);
}
