import assert from "node:assert/strict";
import { test } from "node:test";
import { bestMsPerToken, type Measured } from "../../bench/peers/measure.ts";
import { peerRows, ratioFigures, ratios } from "../../bench/peers/peer_ratios.ts";

const measured = (peer: string, threads: number, msPerToken: number, prefillTokensPerS: number): Measured => ({
  peer,
  threads,
  msPerToken,
  prefillTokensPerS,
  version: "1",
  runsIn: "Somewhere 2",
  loadMs: 10.4,
  residentMiB: 100,
  ttftMs: 5,
  output: { text: peer === "deaf" ? "What?" : "The sea" },
});
const all = [
  measured("ours", 1, 4, 300),
  measured("other", 1, 8, 200),
  measured("ours", 2, 2, 600),
  measured("other", 2, 7, 1200),
  measured("deaf", 2, 2, 600),
];
const textOf = ({ output }: Measured) => "text" in output ? output.text : "";

test("ratios() compare a peer with ours on as many threads, above 1 where ours is faster", () => {
  assert.deepEqual(ratios(all[1]!, all, "ours"), { decode: 2, prefill: 1.5 });
  assert.deepEqual(ratios(all[3]!, all, "ours"), { decode: 3.5, prefill: 0.5 });
});

test("ratios() are undefined where ours did not run", () => {
  assert.equal(ratios(measured("other", 4, 1, 1), all, "ours"), undefined);
});

test("peerRows() give each peer and thread count a row, with its ratios and whether it said the same", () => {
  const rows = peerRows(all, "ours", textOf);
  assert.equal(rows.length, all.length);
  assert.equal(rows[1]!["decode, ours faster"], "2.00x");
  assert.equal(rows[3]!["prefill, ours faster"], "0.50x");
  assert.equal(rows[3]!["tokens/s"], 1000 / 7);
  assert.deepEqual(rows.map((row) => row["same text"]), ["yes", "yes", "yes", "yes", "no"]);
});

test("peerRows() leave the ratios out where ours did not run", () => {
  const rows = peerRows(all.filter(({ peer }) => peer !== "ours"), "ours", textOf);
  assert.equal("decode, ours faster" in rows[0]!, false);
});

test("ratioFigures() name peer, work and threads, and leave ours out", () => {
  assert.deepEqual(ratioFigures(all.slice(0, 4), "ours"), {
    other_decode_1_threads: 2,
    other_prefill_1_threads: 1.5,
    other_decode_2_threads: 3.5,
    other_prefill_2_threads: 0.5,
  });
});

test("a peer's speed is that of its best tokens in a row, of all where these are short", () => {
  assert.equal(bestMsPerToken([50, 55, 60, 95]), 15);
  const evenly = (from: number, ms: number, count: number) => Array.from({ length: count }, (_, i) => from + ms * i);
  assert.equal(bestMsPerToken([...evenly(0, 90, 10), ...evenly(1000, 50, 9), ...evenly(2000, 70, 10)]), 50);
  assert.equal(bestMsPerToken([...evenly(0, 4, 100), ...evenly(500, 20, 100)]), 4);
  assert.equal(bestMsPerToken([...evenly(0, 4, 60), ...evenly(3000, 4, 60)]), 4);
  // Two that come together are no speed.
  assert.equal(bestMsPerToken(evenly(0, 200, 20).flatMap((ms) => [ms, ms])), 100);
  assert.equal(bestMsPerToken(evenly(0, 16, 40).flatMap((ms) => [ms, ms + 0.25, ms + 0.5, ms + 0.75])), 4);
});
