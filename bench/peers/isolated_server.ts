import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** What a browser wants before it gives a page shared memory, and so threads. */
const ISOLATION = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };

/** A file to serve. */
export interface ServedFile {
  path: string;
  type: string;
}

/** Serves until it is disposed. */
export interface IsolatedServer extends AsyncDisposable {
  /** Such as `http://127.0.0.1:40123`. */
  origin: string;
}

/** Serves an empty page at `/` and `files` by their URL path, on a free port that only this machine sees. */
export async function serveIsolated(files: Readonly<Record<string, ServedFile>>): Promise<IsolatedServer> {
  const server = createServer((request, response) => {
    const file = files[request.url ?? ""];
    if (!file) {
      response.writeHead(request.url === "/" ? 200 : 404, { ...ISOLATION, "Content-Type": "text/html" });
      response.end("<!doctype html>");
      return;
    }
    const size = statSync(file.path).size;
    response.writeHead(200, { ...ISOLATION, "Content-Type": file.type, "Content-Length": size });
    createReadStream(file.path).pipe(response);
  });
  await new Promise<void>((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
