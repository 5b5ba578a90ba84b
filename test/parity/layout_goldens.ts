/**
 * What onnxruntime's native build gives for the synthetic model of each layout: writes `test/golden/layouts.json`, which
 * `test/backend/layouts_test.ts` holds our backends to.
 *
 *   bun test/parity/layout_goldens.ts
 *
 * The files are run as they are, but for `accuracy_level`: where it is 4 the native kernels round activations to int8,
 * as ours do by default, each in its own way.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { decodeModel, encodeModel } from "../../src/model/onnx_proto.ts";
import { argmax } from "../../src/sampling/softmax.ts";
import {
  caseName,
  type Golden,
  LAYOUT_CASES,
  type LayoutCase,
  layoutModel,
  promptOf,
  STEPS,
} from "../backend/layout_cases.ts";
import { NativeSession } from "./native_session.ts";

const POSITIONS = 8;
const IDS = 32;

async function golden(item: LayoutCase): Promise<Golden> {
  await using model = await layoutModel(item);
  const { config: { vocabSize }, onnxPath } = model;
  const onnx = decodeModel(readFileSync(onnxPath));
  for (const node of onnx.graph.node) node.attribute = node.attribute.filter(({ name }) => name !== "accuracy_level");
  writeFileSync(onnxPath, encodeModel(onnx));
  const session = await NativeSession.load(onnxPath, model.config);
  const prompt = promptOf(item);
  const logits = await session.append(prompt);
  const positions = Array.from({ length: POSITIONS }, (_, i) => Math.floor((i + 1) * prompt.length / POSITIONS) - 1);
  const ids = Array.from({ length: IDS }, (_, i) => Math.floor(i * vocabSize / IDS));
  const greedy: number[] = [];
  const margins: number[] = [];
  let last = logits.slice((prompt.length - 1) * vocabSize);
  for (let step = 0; step < STEPS; step++) {
    const best = argmax(last);
    const value = last[best]!;
    last[best] = -Infinity;
    margins.push(round(value - last[argmax(last)]!));
    greedy.push(best);
    last = Float32Array.from(await session.append([best]));
  }
  await session.release();
  const rows = positions.map((position) => ids.map((id) => round(logits[position * vocabSize + id]!)));
  return { greedy, margins, positions, ids, logits: rows };
}

/** To 1e-5, a hundredth of what is asked for. */
const round = (value: number) => Math.round(value * 1e5) / 1e5;

const goldens: Record<string, Golden> = {};
for (const item of LAYOUT_CASES) goldens[caseName(item)] = await golden(item);
const lines = Object.entries(goldens).map(([name, { logits, ...rest }]) => {
  const rows = logits.map((row) => `    ${JSON.stringify(row)}`).join(",\n");
  const fields = Object.entries(rest).map(([key, value]) => `    ${JSON.stringify(key)}: ${JSON.stringify(value)},\n`);
  return `  ${JSON.stringify(name)}: {\n${fields.join("")}    "logits": [\n${rows}\n    ]\n  }`;
});
writeFileSync(new URL("../golden/layouts.json", import.meta.url), `{\n${lines.join(",\n")}\n}\n`);
console.log(`Wrote ${lines.length} goldens`);
