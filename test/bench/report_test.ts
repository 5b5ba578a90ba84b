import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { writeRecord } from "../../bench/record.ts";
import { type CaseResult, describeMachine, table } from "../../bench/report.ts";

const result: CaseResult = {
  name: "example",
  question: "How long?",
  checked: "the same tokens",
  rows: [{ work: "decode", ms: 12.345 }, { work: "prefill", ms: 7, note: "warm" }],
  figures: { ratio: 1.5 },
  plot: {
    title: "Example <plot>",
    x: "turn",
    y: "ms",
    points: [{ x: 1, y: 2, series: "on" }, { x: 2, y: 3, series: "on" }, { x: 1, y: 9, series: "off" }],
  },
};

test("table() aligns columns and rounds", () => {
  assert.equal(table(result.rows), ["work     ms     note", "decode   12.35", "prefill  7      warm"].join("\n"));
});

test("writeRecord() leaves the figures with their machine, and a plot with its series", async () => {
  const folder = await mkdtemp(join(tmpdir(), "hearth-record-"));
  try {
    const machine = describeMachine();
    const environment = { ...machine, model: "m", backend: "b", variant: "v", threads: 2 };
    const [json, svg] = await writeRecord(folder, environment, result);
    const record = JSON.parse(await readFile(json!, "utf8"));
    assert.deepEqual(record.figures, result.figures);
    assert.deepEqual(record.rows, result.rows);
    assert.equal(record.environment.machine.cores, machine.machine.cores);
    assert.equal(record.plot, undefined);
    const drawing = await readFile(svg!, "utf8");
    assert.match(drawing, /^<svg/);
    for (const text of ["Example &lt;plot&gt;", "turn", "ms", "on", "off"]) {
      assert.ok(drawing.includes(`>${text}<`), text);
    }
    assert.equal(drawing.match(/class="mark-line/g)?.length, 2);
  } finally {
    await rm(folder, { recursive: true });
  }
});
