import { type Listen, serve } from "./server.ts";

/** A Bun listener. */
export const listen: Listen = ({ hostname, port, fetch }) => {
  const server = Bun.serve({
    hostname,
    port,
    fetch: (request) => fetch(request),
    // Bun ends a connection that was silent for 10 s with status 200 and an empty body (1.4.5,
    // https://bun.com/docs/runtime/http/server#idletimeout). A long prefill is silent for longer.
    idleTimeout: 0,
    // Bun's own limit is 128 MiB; the app has limits that know what a body is for.
    maxRequestBodySize: 2 ** 31,
  });
  return { port: server.port!, stop: () => server.stop() };
};

if (import.meta.main) await serve(listen, `Bun ${Bun.version}`);
