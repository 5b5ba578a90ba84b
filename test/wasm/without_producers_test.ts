import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { test } from "node:test";
import { withoutProducers } from "./without_producers.ts";

const HEADER = [0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const custom = (name: string, ...content: number[]) => [
  0,
  1 + name.length + content.length,
  name.length,
  ...Buffer.from(name),
  ...content,
];
/** Its content is no name: where a name's length would stand, a number begins that goes on past the module's end. */
const DATA = [11, 2, 0xff, 0xff];

test("withoutProducers() leaves out that section, and reads names of custom sections only", () => {
  const module = (...sections: number[][]) => Buffer.from([...HEADER, ...sections.flat()]);
  const kept = [custom("name", 1, 2), DATA];
  assert.deepEqual(withoutProducers(module(custom("producers", 7, 8, 9), ...kept)), module(...kept));
  assert.deepEqual(withoutProducers(module()), module());
});

test("withoutProducers() refuses a module that ends within a section", () => {
  for (const cut of [[11], [11, 0x80], [11, 2, 0], [0, 0]]) {
    assert.throws(() => withoutProducers(Buffer.from([...HEADER, ...cut])), {
      name: "RangeError",
      message: /^Cannot read the module: it has \d+ bytes, wanted \d+$/,
    });
  }
});
