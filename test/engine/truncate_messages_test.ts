import assert from "node:assert/strict";
import fc from "fast-check";
import { describe, test } from "node:test";
import { ContextOverflowError, InvalidRequestError } from "../../src/errors.ts";
import { withoutOldestTurns } from "../../src/engine/truncate_messages.ts";
import type { ChatMessage } from "../../src/tokenizer/chat_template.ts";
import { collect, fakeEngine } from "../fakes/fake_engine.ts";

const spell = (letters: string): ChatMessage[] =>
  [...letters].map((letter) => ({
    role: { s: "system", u: "user", a: "assistant" }[letter]!,
    content: letter,
  }));
const shorten = async (letters: string, most: number) => {
  const { messages, turns } = await withoutOldestTurns(spell(letters), (shorter) => shorter.length <= most);
  return [messages.map(({ content }) => content).join(""), turns];
};

describe("withoutOldestTurns()", () => {
  test("leaves out whole turns, oldest first, as few as it can", async () => {
    assert.deepEqual(await shorten("suauau", 4), ["suau", 1]);
    assert.deepEqual(await shorten("suauau", 3), ["su", 2]);
    assert.deepEqual(await shorten("uauau", 2), ["u", 2]);
    assert.deepEqual(await shorten("suuaau", 2), ["su", 2], "what follows a user's message goes with it");
  });

  test("system messages stay, wherever they are, and so does the last turn", async () => {
    assert.deepEqual(await shorten("suasuau", 1), ["ssu", 2]);
    assert.deepEqual(await shorten("su", 1), ["su", 0]);
    assert.deepEqual(await shorten("ss", 1), ["ss", 0]);
  });

  test("what the assistant said first goes with the first turn", async () => {
    assert.deepEqual(await shorten("auau", 3), ["u", 1]);
  });

  test("does the same as trying one after the other", async () => {
    const letters = fc.array(fc.constantFrom("s", "u", "a"), { minLength: 1, maxLength: 12 }).map((all) =>
      all.join("")
    );
    await fc.assert(fc.asyncProperty(letters, fc.nat(12), async (letters, most) => {
      const [kept, turns] = await shorten(letters, most);
      const every = (await Promise.all(Array.from({ length: 13 }, (_, i) => shorten(letters, i)))).filter(([, other]) =>
        other as number > 0
      );
      // As few as fit; where none fits, the shortest.
      const best = every.filter(([text]) => (text as string).length <= most)
        .sort(([, a], [, b]) => (a as number) - (b as number))[0] ?? every.at(0);
      assert.deepEqual([kept, turns], best ?? [letters, 0]);
    }));
  });
});

describe("truncation", () => {
  const user = (content: string) => ({ role: "user", content });
  const said = (content: string) => ({ role: "assistant", content });
  const long = [
    { role: "system", content: "Be kind." },
    ...["one", "two", "three", "four"].flatMap((
      word,
    ) => [user(`Tell me about ${word}, please.`), said(`It is ${word}.`)]),
    user("Thanks."),
  ];
  const request = { prompt: { messages: long }, maxTokens: 8, ignoreEos: true } as const;

  test("auto gives what the conversation without its oldest turns gives, and says what went", async () => {
    const { engine } = fakeEngine({ contextLength: 100 });
    await assert.rejects(collect(engine.generate(request)), ContextOverflowError);
    const { ids, end: { usage } } = await collect(engine.generate({ ...request, truncation: "auto" }));
    const { turns, messages, tokens } = usage.truncated!;
    assert.ok(turns > 0 && turns < 4 && messages === 2 * turns, JSON.stringify(usage.truncated));
    const kept = [long[0]!, ...long.slice(1 + messages)];
    const wanted = await collect(engine.generate({ ...request, prompt: { messages: kept } }));
    assert.deepEqual([ids, usage.promptTokens], [wanted.ids, wanted.end.usage.promptTokens]);
    assert.equal(wanted.end.usage.truncated, undefined);
    const whole = fakeEngine({ contextLength: 1000 }).engine;
    const { end } = await collect(whole.generate({ ...request, truncation: "auto" }));
    assert.deepEqual([end.usage.promptTokens - usage.promptTokens, end.usage.truncated], [tokens, undefined]);
    // One turn less left out would not fit.
    const more = { ...request, prompt: { messages: [long[0]!, ...long.slice(1 + messages - 2)] } };
    await assert.rejects(collect(engine.generate(more)), ContextOverflowError);
  });

  test("without max_tokens a part of the context is left for the answer", async () => {
    const { engine } = fakeEngine({ contextLength: 100 });
    const { end } = await collect(engine.generate({ ...request, maxTokens: undefined, truncation: "auto" }));
    assert.ok(end.usage.truncated && end.usage.promptTokens <= 75, `${end.usage.promptTokens}`);
  });

  test("a session says that its turns were left out, and goes on from what is left", async () => {
    const { engine } = fakeEngine({ contextLength: 100 });
    const ask = async (messages: ChatMessage[]) => {
      const session = { id: "s" };
      return (await collect(engine.generate({ ...request, prompt: { messages }, session, truncation: "auto" }))).end
        .usage;
    };
    await ask(long.slice(0, 4));
    const cut = await ask(long);
    assert.deepEqual([cut.cache.reason, cut.truncated!.turns > 0], ["truncated", true]);
    assert.equal(cut.cache.firstDifference!.message, undefined);
    const plan = await engine.sessions.plan({ ...request, session: { id: "s" }, truncation: "auto" });
    assert.deepEqual(plan.truncated, cut.truncated);
    const again = await ask(long);
    assert.equal(again.cache.reused, again.promptTokens - 1, "the same again is all there");
  });

  test("where the words would be lost, and where they are no messages, it is refused", async () => {
    const { engine } = fakeEngine({ contextLength: 100 });
    for (
      const wrong of [
        { ...request, session: { id: "s", mode: "append" as const } },
        { ...request, prompt: { text: "Hello" } },
      ]
    ) {
      const { name, param } = await collect(engine.generate({ ...wrong, truncation: "auto" })).catch((error) => error);
      assert.deepEqual([name, param], [InvalidRequestError.name, "truncation"]);
    }
    const one = { ...request, prompt: { messages: [user("word ".repeat(200))] } };
    await assert.rejects(collect(engine.generate({ ...one, truncation: "auto" })), ContextOverflowError);
  });
});
