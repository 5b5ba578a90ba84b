import type { Row } from "../report.ts";
import type { Measured } from "./measure.ts";

/** How many times faster ours is than a peer on as many threads. */
export interface Ratios {
  decode: number;
  prefill: number;
}

/** The ratios of `peer`; `undefined` where `ours` was not measured on its number of threads. */
export function ratios(peer: Measured, all: readonly Measured[], ours: string): Ratios | undefined {
  const own = all.find((other) => other.peer === ours && other.threads === peer.threads);
  return own && {
    decode: peer.msPerToken / own.msPerToken,
    prefill: own.prefillTokensPerS / peer.prefillTokensPerS,
  };
}

/** One row a peer and number of threads. `textOf` says what a peer's output reads as. */
export function peerRows(all: readonly Measured[], ours: string, textOf: (peer: Measured) => string): Row[] {
  return all.map((peer) => {
    const times = ratios(peer, all, ours);
    const own = all.find((other) => other.peer === ours && other.threads === peer.threads) ?? all[0]!;
    return {
      peer: peer.peer,
      threads: peer.threads,
      "ms/token": peer.msPerToken,
      "tokens/s": 1000 / peer.msPerToken,
      ...(times && { "decode, ours faster": `${times.decode.toFixed(2)}x` }),
      "prefill tokens/s": peer.prefillTokensPerS,
      ...(times && { "prefill, ours faster": `${times.prefill.toFixed(2)}x` }),
      "TTFT ms": peer.ttftMs,
      "load ms": Math.round(peer.loadMs),
      "resident MiB": peer.residentMiB,
      "same text": textOf(peer) === textOf(own) ? "yes" : "no",
      "runs in": peer.runsIn,
      version: peer.version,
    };
  });
}

/** The ratios by name, such as `llama_cpp_decode_2_threads`. */
export function ratioFigures(all: readonly Measured[], ours: string): Record<string, number> {
  const figures: [string, number][] = [];
  for (const peer of all.filter((peer) => peer.peer !== ours)) {
    const entries = Object.entries(ratios(peer, all, ours) ?? {});
    for (const [work, ratio] of entries) figures.push([`${peer.peer}_${work}_${peer.threads}_threads`, ratio]);
  }
  return Object.fromEntries(figures);
}
