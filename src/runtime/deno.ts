import { type Listen, serve } from "./server.ts";

/** A Deno listener. */
export const listen: Listen = ({ hostname, port, fetch }) => {
  const server = Deno.serve({ hostname, port, onListen: () => {} }, (request) => fetch(request));
  return { port: server.addr.port, stop: () => server.shutdown() };
};

if (import.meta.main) await serve(listen, `Deno ${Deno.version.deno}`);
