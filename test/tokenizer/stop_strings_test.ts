import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { StopStrings } from "../../src/tokenizer/stop_strings.ts";

/** Feeds chunks until a stop string is found, as generation does. */
function feed(stops: readonly string[], chunks: readonly string[]) {
  const watcher = new StopStrings(stops);
  let text = "";
  for (const chunk of chunks) {
    const result = watcher.push(chunk);
    text += result.text;
    if (result.stopped !== undefined) return { text, stopped: result.stopped };
  }
  return { text: text + watcher.flush() };
}

/** The same by looking at every beginning of the whole text. */
function naive(stops: readonly string[], text: string) {
  for (let end = 1; end <= text.length; end++) {
    const seen = text.slice(0, end);
    const found = stops.filter((stop) => seen.endsWith(stop)).sort((a, b) => b.length - a.length)[0];
    if (found !== undefined) return { text: seen.slice(0, end - found.length), stopped: found };
  }
  return { text };
}

/** Two letters only, so that stop strings overlap, repeat and almost occur. */
const letters = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 12 });
const stopLists = fc.array(fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 5 }), {
  maxLength: 4,
});

describe("StopStrings", () => {
  test("finds what a search of the whole text finds, however it is cut", () => {
    fc.assert(
      fc.property(stopLists, fc.array(letters, { maxLength: 8 }), (stops, chunks) => {
        assert.deepEqual(feed(stops, chunks), naive(stops, chunks.join("")));
      }),
      { numRuns: 3000 },
    );
  });

  test("loses nothing and holds back no more than could begin a stop string", () => {
    fc.assert(
      fc.property(stopLists, fc.array(letters, { maxLength: 8 }), (stops, chunks) => {
        const watcher = new StopStrings(stops);
        let [seen, emitted] = ["", ""];
        for (const chunk of chunks) {
          const result = watcher.push(chunk);
          if (result.stopped !== undefined) return;
          seen += chunk;
          emitted += result.text;
          assert.ok(seen.startsWith(emitted));
          const held = seen.slice(emitted.length);
          assert.ok(
            held === "" || stops.some((stop) => stop !== held && stop.startsWith(held)),
            `held ${held} of ${seen}`,
          );
          for (let longer = 1; longer <= emitted.length; longer++) {
            const end = seen.slice(emitted.length - longer);
            assert.ok(!stops.some((stop) => stop.startsWith(end)), `emitted the beginning of ${end}`);
          }
        }
        assert.equal(emitted + watcher.flush(), seen);
        assert.equal(watcher.flush(), "");
      }),
      { numRuns: 3000 },
    );
  });

  test("the stop string and what follows it are not text", () => {
    assert.deepEqual(new StopStrings(["\n\n"]).push("one\n\ntwo"), { text: "one", stopped: "\n\n" });
    assert.deepEqual(feed(["User:"], ["Hi.\nUs", "er", ": more"]), { text: "Hi.\n", stopped: "User:" });
  });

  test("what looked like a stop string is let through once it is none", () => {
    const watcher = new StopStrings(["</end>"]);
    assert.deepEqual(watcher.push("a </e"), { text: "a " });
    assert.deepEqual(watcher.push("m> b <"), { text: "</em> b " });
    assert.equal(watcher.flush(), "<");
  });

  test("of two stop strings the one complete first ends the text", () => {
    assert.deepEqual(feed(["abc", "b"], ["xabc"]), { text: "xa", stopped: "b" });
    assert.deepEqual(feed(["abc", "b"], ["xa", "b", "c"]), { text: "xa", stopped: "b" });
    assert.deepEqual(feed(["c", "bc"], ["abcd"]), { text: "a", stopped: "bc" });
  });

  test("without stop strings everything passes at once", () => {
    assert.deepEqual(new StopStrings([]).push("anything"), { text: "anything" });
  });
});
