import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

/** What a browser wants before it gives a page shared memory, and so threads. */
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** Options of {@linkcode servePages}. */
export interface PageServerOptions {
  /** Folders by the first part of the URL's path. */
  folders: Readonly<Record<string, string>>;
  /** Whether pages are isolated from other origins. */
  isolated: boolean;
  /** Whether `Range` is taken. @default true */
  ranges?: boolean;
}

/** Serves until it is disposed. */
export interface PageServer extends AsyncDisposable {
  /** Such as `http://127.0.0.1:40123`. */
  origin: string;
  /** Sizes of the answers so far by path, in bytes. */
  answers: Map<string, number[]>;
}

/** A static file server, as a page has it: an empty page at `/`, and folders. */
export async function servePages(options: PageServerOptions): Promise<PageServer> {
  const answers = new Map<string, number[]>();
  const server = createServer((request, response) => {
    for (const [name, value] of Object.entries(options.isolated ? ISOLATION : {})) response.setHeader(name, value);
    answer(request, response, options, answers).catch(() => response.writeHead(404).end());
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    answers,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  { folders, ranges = true }: PageServerOptions,
  answers: Map<string, number[]>,
): Promise<void> {
  const { pathname } = new URL(request.url!, "http://page");
  if (pathname === "/") {
    response.setHeader("Content-Type", "text/html").end("<!doctype html>");
    return;
  }
  const [folder, ...names] = normalize(decodeURIComponent(pathname)).slice(1).split("/");
  const path = join(folders[folder!]!, ...names);
  const { size } = await stat(path);
  const range = ranges ? /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") : null;
  const [start, end] = range ? [Number(range[1]), Math.min(Number(range[2]), size - 1)] : [0, size - 1];
  if (range) response.setHeader("Content-Range", `bytes ${start}-${end}/${size}`);
  response.setHeader("Content-Type", TYPES[extname(path)] ?? "application/octet-stream");
  response.setHeader("Content-Length", end - start + 1);
  response.statusCode = range ? 206 : 200;
  answers.set(pathname, [...answers.get(pathname) ?? [], end - start + 1]);
  createReadStream(path, { start, end }).pipe(response);
}
