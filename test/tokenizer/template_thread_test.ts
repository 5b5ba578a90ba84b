import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { ChatTemplateError, InvalidRequestError } from "../../src/errors.ts";
import { ChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { TemplateThread } from "../../src/tokenizer/template_thread.ts";
import { tiny } from "./models.ts";
import { tinyId } from "./tiny_sentencepiece.ts";

/** 10^15 rounds: nothing that runs them comes back. */
const NESTED = "{% for a in range(1000) %}".repeat(5) + "{% endfor %}".repeat(5);
const HANGS_WHEN_ASKED = `{% if messages[0]['content'] == 'hang' %}${NESTED}{% endif %}{{ messages[0]['content'] }}`;

const thread = new TemplateThread();
after(() => thread.close());
const LIMIT_MS = 300;
const templateOf = (chat_template: string) =>
  ChatTemplate.fromConfig({ chat_template }, tiny, { thread, limitMs: LIMIT_MS });
const say = (content: string) => [{ role: "user", content }];

describe("TemplateThread", () => {
  test("ends a template that loops, and goes on with the next", async () => {
    const template = templateOf(HANGS_WHEN_ASKED);
    assert.deepEqual(await template.encode(say("the")), [tinyId("▁the")]);
    const startedAt = performance.now();
    await assert.rejects(template.encode(say("hang")), (error: unknown) => {
      assert.ok(error instanceof ChatTemplateError);
      assert.match(error.message, /template took longer than 300 ms/);
      return true;
    });
    assert.ok(performance.now() - startedAt >= LIMIT_MS);
    assert.deepEqual(await template.encode(say("the")), [tinyId("▁the")]);
  });

  test("leaves the calling thread to others while a template loops", async () => {
    let ticks = 0;
    const ticking = setInterval(() => ticks++, 10);
    await assert.rejects(templateOf(HANGS_WHEN_ASKED).encode(say("hang")), ChatTemplateError);
    clearInterval(ticking);
    assert.ok(ticks >= 10, `${ticks} ticks in ${LIMIT_MS} ms`);
  });

  test("serves those who wait behind one that loops, each with the whole of its time", async () => {
    const template = templateOf(HANGS_WHEN_ASKED);
    const texts = ["the", "hang", "hello", "hang", "the"];
    const results = await Promise.allSettled(texts.map((text) => template.renderText(say(text))));
    assert.deepEqual(
      results.map((result) => result.status === "fulfilled" ? result.value : result.reason.name),
      ["the", "ChatTemplateError", "hello", "ChatTemplateError", "the"],
    );
  });

  test("a late reply counts when it came in time and nobody could look", async () => {
    const rendered = templateOf("{{ messages[0]['content'] }}").renderText(say("the"));
    // The thread is there and asked; then this one is busy for longer than the limit.
    await new Promise((resolve) => setTimeout(resolve, 1));
    for (const until = performance.now() + 2 * LIMIT_MS; performance.now() < until;);
    assert.equal(await rendered, "the");
  });

  test("refuses a prompt that is far longer than its messages", async () => {
    const doubling = "{% set ns = namespace(text='0123456789abcdef') %}" +
      "{% for i in range(18) %}{% set ns.text = ns.text + ns.text %}{% endfor %}{{ ns.text }}";
    await assert.rejects(
      templateOf(doubling).renderText(say("a")),
      /template made 4194304 characters of them, wanted at most/,
    );
  });

  test("a template without an end to its memory takes nothing else along", async () => {
    const hoarding = "{% set ns = namespace(all=[]) %}{% for a in range(100000) %}{% for b in range(100000) %}" +
      "{% set ns.all = ns.all + [range(1000)] %}{% endfor %}{% endfor %}";
    await assert.rejects(templateOf(hoarding).renderText(say("a")));
    assert.equal(await templateOf("{{ messages[0]['content'] }}").renderText(say("the")), "the");
  });

  test("starts again after it was closed", async () => {
    const template = templateOf("{{ messages[0]['content'] }}");
    for (const text of ["the", "hello", "low"]) {
      assert.equal(await template.renderText(say(text)), text);
      await thread.close();
    }
  });

  test("what a template raises leaves the thread as it is", async () => {
    const template = templateOf("{{ raise_exception(messages[0]['content']) }}");
    await assert.rejects(template.renderText(say("no tools")), (error: unknown) => {
      assert.ok(error instanceof InvalidRequestError);
      assert.match(error.message, /^Cannot format messages: no tools/);
      return true;
    });
    const long = templateOf(
      "{% set ns = namespace(text='0123456789abcdef') %}{% for i in range(18) %}" +
        "{% set ns.text = ns.text + ns.text %}{% endfor %}{{ raise_exception(ns.text) }}",
    );
    await assert.rejects(long.renderText(say("a")), (error: Error) => {
      assert.match(error.message, /^Cannot format messages: 0123456789abcdef.*…$/);
      return error.message.length < 1100;
    });
    const recursive = templateOf("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}");
    // A stack that ends, or, where a runtime's is deep, the time.
    await assert.rejects(recursive.renderText(say("a")));
    assert.equal(await templateOf("{{ messages[0]['role'] }}").renderText(say("a")), "user");
  });
});
