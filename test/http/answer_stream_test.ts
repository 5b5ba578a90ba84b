import assert from "node:assert/strict";
import { setImmediate } from "node:timers/promises";
import { describe, test } from "node:test";
import fc from "fast-check";
import { StreamOffsetLostError } from "../../src/errors.ts";
import { AnswerStream, type AnswerStreamOptions, type StreamReader } from "../../src/http/answer_stream.ts";
import type { Frame } from "../../src/http/frame_ring.ts";
import { collected } from "./collected.ts";

const FRAME_BYTES = 10;
const said = (number: number) => `${number} `;
const frame = (number: number) => `${number}`.padStart(FRAME_BYTES, ".");

/** A stream of so many frames, which counts those it was asked for. */
function counted(frames: number, options: Partial<AnswerStreamOptions> = {}) {
  const made = { count: 0, aborted: false };
  const stream = new AnswerStream({
    id: "id",
    tenant: "t",
    sessionId: undefined,
    onDisconnect: "cancel",
    contentType: "text/plain",
    async open(signal) {
      async function* pieces(): AsyncGenerator<Frame, boolean> {
        for (let number = 0; number < frames; number++) {
          await setImmediate();
          made.aborted = signal.aborted;
          signal.throwIfAborted();
          const number = made.count++;
          yield { wire: frame(number), text: said(number) };
        }
        return true;
      }
      return { headers: { a: "b" }, pieces: pieces() };
    },
    ...options,
  });
  return { stream, made };
}

async function readAll(reader: StreamReader): Promise<string[]> {
  const frames = [];
  for (let next = await reader.next(); !next.done; next = await reader.next()) frames.push(next.value);
  return frames;
}

describe("AnswerStream", () => {
  test("makes a frame only when it is asked for", async () => {
    const { stream, made } = counted(5);
    const reader = stream.read();
    assert.deepEqual([await stream.headers, made.count], [{ a: "b" }, 0]);
    await reader.next();
    for (let i = 0; i < 5; i++) await setImmediate();
    assert.equal(made.count, 1);
    assert.equal((await readAll(reader)).length, 4);
    assert.equal(await stream.over, true);
  });

  test("tells every reader what refused it or broke it off, after the frames before", async () => {
    const refused = counted(1, { open: () => Promise.reject(new Error("refused")) }).stream;
    const readers = [refused.read(), refused.read()];
    await assert.rejects(refused.headers, /refused/);
    for (const reader of readers) await assert.rejects(reader.next(), /refused/);
    assert.equal(await refused.over, false);

    const { stream } = counted(9);
    const reader = stream.read();
    await reader.next();
    stream.cancel(new Error("stopped"));
    await assert.rejects(readAll(reader), /stopped/);
    await assert.rejects(readAll(stream.read()), /stopped/);
  });

  test("an answer that fails to open is cancelled: it may have begun", async () => {
    let begun: AbortSignal | undefined;
    const { stream } = counted(1, {
      async open(signal) {
        begun = signal;
        await setImmediate();
        throw new Error("broken");
      },
    });
    await assert.rejects(stream.headers, /broken/);
    assert.equal(begun?.aborted, true);
    assert.equal(await stream.over, false);
  });

  test("one that leaves while it waits for another reader gets no more", async () => {
    const { stream } = counted(100, { aheadBytes: 5 * FRAME_BYTES });
    const [fast, slow] = [stream.read(), stream.read()];
    for (let i = 0; i < 5; i++) await fast.next();
    const waiting = fast.next();
    await setImmediate();
    fast.leave();
    assert.equal((await waiting).done, true);
    assert.equal((await readAll(slow)).length, 100);
  });

  test("once over it holds what it said, not what admitted or made it", async () => {
    const refs: WeakRef<object>[] = [];
    const held = (name: string) => {
      const one = { name };
      refs.push(new WeakRef(one));
      return one;
    };
    const streams: AnswerStream[] = [];
    for (let i = 0; i < 50; i++) {
      const request = held("hello");
      const generation = held("world");
      const { stream } = counted(1, {
        async open() {
          const { name } = request;
          async function* pieces(): AsyncGenerator<Frame, boolean> {
            yield { wire: name, text: name };
            yield { wire: generation.name, text: generation.name };
            return true;
          }
          return { headers: {}, pieces: pieces() };
        },
      });
      streams.push(stream);
      assert.deepEqual(await readAll(stream.read()), ["hello", "world"]);
    }
    assert.ok(await collected(refs));
    for (const stream of streams) assert.deepEqual(await readAll(stream.read()), ["hello", "world"]);
  });
});

type Step =
  | { do: "join"; from: number }
  | { do: "next" | "leave"; reader: number }
  | { do: "settle" };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 2, arbitrary: fc.record({ do: fc.constant("join" as const), from: fc.nat(40) }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant("next" as const), reader: fc.nat(3) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("leave" as const), reader: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("settle" as const) }) },
);

test("AnswerStream gives each reader every frame once and in order, within its bounds, whoever comes and goes", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60, size: "max" }),
      fc.integer({ min: 0, max: 8 }),
      fc.integer({ min: 1, max: 8 }),
      async (steps, keep, ahead) => {
        const frames = 40;
        const { stream, made } = counted(frames, {
          onDisconnect: "continue",
          keepBytes: keep * FRAME_BYTES,
          aheadBytes: ahead * FRAME_BYTES,
        });
        interface Known {
          reader: StreamReader;
          wanted: number;
          pending: Promise<void> | undefined;
        }
        const readers: Known[] = [{ reader: stream.read(), wanted: 0, pending: undefined }];
        let left = 0;
        const floor = () => readers.length === 0 ? left : Math.min(...readers.map(({ wanted }) => wanted));
        // A reader that joins early takes the floor back, but not what was made and dropped before.
        let highest = 0;
        const note = () => highest = Math.max(highest, floor());
        for (const one of steps) {
          if (one.do === "join") {
            try {
              const reader = stream.read(Math.min(one.from, made.count));
              readers.push({ reader, wanted: Math.min(one.from, made.count), pending: undefined });
            } catch (error) {
              assert.ok(error instanceof StreamOffsetLostError);
              assert.ok(one.from < highest - keep, `${one.from} had to be kept, the slowest was at ${highest}`);
              const { first, text } = error.kept!;
              assert.equal(text, Array.from({ length: first }, (_, number) => said(number)).join(""));
            }
          } else if (one.do === "settle") { for (let i = 0; i < 20; i++) await setImmediate(); }
          else {
            const known = readers[one.reader % (readers.length || 1)];
            if (!known) continue;
            if (one.do === "leave") {
              await Promise.race([known.pending, setImmediate()]);
              readers.splice(readers.indexOf(known), 1);
              known.reader.leave();
              await known.pending;
              if (readers.length === 0) left = known.wanted;
            } else if (!known.pending) {
              known.pending = known.reader.next().then(({ done, value }) => {
                known.pending = undefined;
                if (!done) assert.equal(value, frame(known.wanted++));
                else if (readers.includes(known)) assert.equal(known.wanted, frames);
              });
              await Promise.race([known.pending, setImmediate()]);
            }
          }
          note();
          assert.ok(made.count <= highest + ahead, `${made.count} made, the slowest was at ${highest}`);
          const texts = Array.from({ length: made.count }, (_, number) => said(number)).join("");
          assert.ok(stream.bytes <= (keep + ahead + 2) * FRAME_BYTES + texts.length);
        }
        for (const { reader, pending } of readers.splice(0)) {
          reader.leave();
          await pending;
        }
        stream.cancel();
        await stream.over;
      },
    ),
    { numRuns: 300 },
  );
});
