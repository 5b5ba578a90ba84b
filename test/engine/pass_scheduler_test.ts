import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { ForwardRow, RowResult } from "../../src/backend/backend.ts";
import { PassScheduler } from "../../src/engine/pass_scheduler.ts";
import { OutOfMemoryError } from "../../src/errors.ts";
import { FakeBackend } from "../fakes/fake_backend.ts";

/** Records what each pass was made of; a row's result is its own first token. */
function recorder(
  { rowInvariant = true, ms = 2, fails = (_: readonly number[]): Error | undefined => undefined } = {},
) {
  const passes: number[][] = [];
  const forward = async (rows: readonly ForwardRow[]): Promise<RowResult[]> => {
    const ids = rows.map(({ tokenIds }) => tokenIds[0]!);
    passes.push(ids);
    await new Promise((resolve) => setTimeout(resolve, ms));
    const failure = fails(ids);
    if (failure) throw failure;
    return ids.map((id) => ({ logits: Float32Array.of(id) }));
  };
  return { passes, backend: { info: { rowInvariant }, forward } };
}

const decode = (id: number): ForwardRow => ({ tokenIds: [id] });
const prefill = (id: number): ForwardRow => ({ tokenIds: [id, ...Array<number>(99).fill(0)] });

/** A stream of so many tokens that asks for the next one as soon as it has the last. */
async function stream(scheduler: PassScheduler, id: number, tokens: number): Promise<void> {
  for (let i = 0; i < tokens; i++) {
    const { logits } = await scheduler.forward(decode(id));
    assert.equal(logits[0], id);
  }
}

describe("PassScheduler", () => {
  test("lets rows that wait share the next pass", async () => {
    const { passes, backend } = recorder();
    const scheduler = new PassScheduler(backend);
    const results = await Promise.all([1, 2, 3].map((id) => scheduler.forward(decode(id))));
    assert.deepEqual(passes, [[1], [2, 3]]);
    assert.deepEqual(results.map(({ logits }) => logits[0]), [1, 2, 3]);
  });

  test("keeps streams together: each gets a token a pass", async () => {
    const { passes, backend } = recorder({ ms: 20 });
    const scheduler = new PassScheduler(backend);
    await Promise.all([1, 2, 3, 4].map((id) => stream(scheduler, id, 10)));
    assert.equal(passes.flat().length, 40);
    assert.ok(passes.length <= 13, `${passes.length} passes`);
  });

  test("tells what a step took where others followed it", async () => {
    const told: number[][] = [];
    const forward = async (): Promise<RowResult[]> => {
      await new Promise((resolve) => setTimeout(resolve, 40));
      const top = { ids: Int32Array.of(1), logits: Float32Array.of(1), logSumExp: 2 };
      return [{ logits: new Float32Array(), top: [top], followed: Array(3).fill({ id: 1, top }) }];
    };
    const backend = { info: { rowInvariant: true }, forward };
    const scheduler = new PassScheduler(backend, { onDecodePass: (tokens, ms) => told.push([tokens, ms]) });
    await scheduler.forward(decode(1));
    await new Promise((resolve) => setTimeout(resolve, 1));
    const [[tokens, ms]] = told as [[number, number]];
    assert.equal(tokens, 1);
    assert.ok(ms >= 9 && ms < 30, `${ms} ms`);
  });

  test("takes one prefill chunk a pass, the one that waited longest, and every decode row", async () => {
    const { passes, backend } = recorder();
    const scheduler = new PassScheduler(backend);
    await Promise.all([
      stream(scheduler, 1, 4),
      ...[10, 11, 12].map((id) => scheduler.forward(prefill(id))),
    ]);
    assert.deepEqual(passes.map((pass) => pass.filter((id) => id >= 10)).filter((ids) => ids.length > 0), [
      [10],
      [11],
      [12],
    ]);
    // No pass over a chunk left the stream out.
    for (const pass of passes.slice(2)) assert.ok(pass.includes(1), JSON.stringify(passes));
  });

  test("gives each row a pass of its own where company would change its bits", async () => {
    const { passes, backend } = recorder({ rowInvariant: false });
    const scheduler = new PassScheduler(backend);
    await Promise.all([1, 2, 3].map((id) => scheduler.forward(decode(id))));
    assert.deepEqual(passes, [[1], [2], [3]]);
  });

  test("withdraws a row that is aborted while it waits, and no other", async () => {
    const { passes, backend } = recorder();
    const scheduler = new PassScheduler(backend);
    const abort = new AbortController();
    const running = scheduler.forward(decode(1), abort.signal);
    const waiting = scheduler.forward(decode(2), abort.signal);
    const other = scheduler.forward(decode(3));
    abort.abort(new Error("gone"));
    await assert.rejects(waiting, /gone/);
    await assert.rejects(scheduler.forward(decode(4), abort.signal), /gone/);
    assert.equal((await running).logits[0], 1);
    await other;
    assert.deepEqual(passes, [[1], [3]]);
  });

  test("refuses the row that memory is missing for, not its company", async () => {
    const { backend } = recorder({
      fails: (ids) => ids.includes(2) ? new OutOfMemoryError("Cannot hold 2") : undefined,
    });
    const scheduler = new PassScheduler(backend);
    const [first, second, third] = await Promise.allSettled([1, 2, 3].map((id) => scheduler.forward(decode(id))));
    assert.equal(first!.status, "fulfilled");
    assert.equal(second!.status, "rejected");
    assert.equal(third!.status, "fulfilled");
  });

  test("lets steps follow a row that is alone when its pass begins, and none where a pass is tried row by row", async () => {
    const follows: boolean[][] = [];
    const forward = async (rows: readonly ForwardRow[]): Promise<RowResult[]> => {
      follows.push(rows.map(({ follow }) => follow !== undefined));
      await new Promise((resolve) => setTimeout(resolve, 2));
      if (rows.length > 1) throw new OutOfMemoryError("Cannot hold both");
      return [{ logits: Float32Array.of(1) }];
    };
    const scheduler = new PassScheduler({ info: { rowInvariant: true }, forward });
    const ask = () => scheduler.forward({ ...decode(1), follow: { steps: 3, stopIds: [] } });
    // The second asks when only the first is known of, which is about to come again when its pass begins.
    await Promise.all([ask(), ask()]);
    await ask();
    await new Promise((resolve) => setTimeout(resolve, 1));
    await Promise.all([ask(), ask(), ask()]);
    assert.deepEqual(follows, [[true], [false], [true], [true], [false, false], [false], [false]]);
  });

  test("refuses the row whose KV went with a thread, not its company that is on the next one", async () => {
    const backend = new FakeBackend({ vocabSize: 10 });
    const scheduler = new PassScheduler(backend);
    const [lost, fresh] = [backend.adopt([1]), backend.adopt([2])];
    lost.lost = true;
    const rows = [undefined, fresh, lost, undefined].map((cache) => scheduler.forward({ cache, tokenIds: [3] }));
    const states = (await Promise.allSettled(rows)).map(({ status }) => status);
    assert.deepEqual(states, ["fulfilled", "fulfilled", "rejected", "fulfilled"]);
    assert.deepEqual(fresh.ids, [2, 3]);
  });

  for (const [where, row] of [["in its pass", decode], ["before the next pass", prefill]] as const) {
    test(`gives who is refused time to let go of memory, ${where}`, async () => {
      let full = false;
      const backend = {
        info: { rowInvariant: true },
        // As messages to a thread: what is let go of later is no help to this pass.
        forward: async (rows: readonly ForwardRow[]): Promise<RowResult[]> => {
          if (full) throw new OutOfMemoryError("Cannot hold them");
          await new Promise((resolve) => setTimeout(resolve, 1));
          return rows.map(() => ({ logits: Float32Array.of(1) }));
        },
      };
      const scheduler = new PassScheduler(backend);
      const turn = async (id: number) => {
        try {
          await scheduler.forward(row(id));
          return "answered";
        } catch {
          // What ends a turn is some steps away.
          for (let i = 0; i < 20; i++) await undefined;
          full = false;
          return "refused";
        }
      };
      // These wait for a pass that is running.
      const before = scheduler.forward(decode(0));
      const turns = [1, 2, 3].map(turn);
      full = true;
      await before;
      assert.deepEqual(await Promise.all(turns), ["refused", "answered", "answered"]);
    });
  }

  test("tells of passes without prefill how long they took", async () => {
    const { backend } = recorder();
    const told: number[] = [];
    const scheduler = new PassScheduler(backend, { onDecodePass: (tokens) => told.push(tokens) });
    await Promise.all([
      scheduler.forward(decode(1)),
      scheduler.forward({ tokenIds: [2, 3] }),
      scheduler.forward(decode(4)),
    ]);
    await scheduler.forward(prefill(9));
    assert.deepEqual(told, [1, 3]);
  });
});
