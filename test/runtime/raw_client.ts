import { connect, type Socket } from "node:net";
import { type SseEvent, sseEvents } from "../http/client.ts";

/** A client that can vanish: a bare TCP connection that has asked for a chat completion. */
export async function requestRaw(port: number, body: object, headers: Record<string, string> = {}): Promise<Socket> {
  const socket = connect(port, "127.0.0.1");
  socket.on("error", () => {});
  const content = JSON.stringify(body);
  const lines = Object.entries({
    host: `127.0.0.1:${port}`,
    "content-type": "application/json",
    "content-length": `${Buffer.byteLength(content)}`,
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`POST /v1/chat/completions HTTP/1.1\r\n${lines.join("")}\r\n${content}`);
  return socket;
}

/** Takes a byte a second off a connection into `taken`, until it is stopped. Disposing of it ends the connection too. */
export function readSlowly(socket: Socket, taken: Uint8Array[]): Disposable & { stop(): void } {
  // With a listener for it, nothing is read but what is asked for.
  const listener = () => {};
  socket.on("readable", listener);
  const drip = setInterval(() => {
    const byte = socket.read(1) as Uint8Array | null;
    if (byte) taken.push(byte);
  }, 1000);
  const stop = () => {
    clearInterval(drip);
    socket.removeListener("readable", listener);
  };
  return {
    stop,
    [Symbol.dispose]() {
      stop();
      socket.destroy();
    },
  };
}

/** The events in what came over a connection, as far as they are whole. */
export function rawEvents(received: string): SseEvent[] {
  // HTTP's chunks end anywhere; their sizes stand on lines of their own.
  const body = received.replaceAll(/\r\n[0-9a-f]+\r\n/g, "");
  return sseEvents(body.slice(0, body.lastIndexOf("\n\n") + 2));
}

/** Reads so many events off the connection, then cuts it without a goodbye. */
export async function readAndVanish(socket: Socket, count: number): Promise<SseEvent[]> {
  let received = "";
  for await (const part of socket) {
    received += part;
    const events = rawEvents(received);
    if (events.length >= count) {
      socket.resetAndDestroy();
      return events.slice(0, count);
    }
  }
  throw new Error(`the stream ended early: ${received}`);
}
