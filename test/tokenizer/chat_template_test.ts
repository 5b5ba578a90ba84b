import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { ChatTemplateError, InvalidRequestError } from "../../src/errors.ts";
import { type ChatMessage, ChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { anyIds, anyText, smol, smolConfig, smolText, tiny } from "./models.ts";
import { tinyConfig, tinyId, tinyJson } from "./tiny_sentencepiece.ts";

const smolTemplate = ChatTemplate.fromConfig(smolConfig, smol);
const tinyTemplate = ChatTemplate.fromConfig(tinyConfig, tiny);
/** Puts a space before the first text of a prompt only. */
const resaved = Tokenizer.fromJson({
  ...tinyJson,
  normalizer: null,
  pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: false },
}, tinyConfig);
const resavedTemplate = ChatTemplate.fromConfig(tinyConfig, resaved);

/** Text that also has what travels through the template as a mark of ours. */
const hostileText = fc.array(
  fc.oneof(
    anyText,
    fc.constantFrom("\ufdd0", "\ufdd1", "\ufdd0o\ufdd1", "\ufdd0s0\ufdd1", "\ufdd0s1\ufdd1", "\ufdd0s99\ufdd1"),
    fc.constantFrom("\ufdd0r0\ufdd1", "\ufdd0r1\ufdd1", "\ufdd0\ufdd0r1\ufdd1\ufdd1", "s0\ufdd1", "\ufdd0r"),
  ),
  { maxLength: 5 },
).map((parts) => parts.join(""));

const conversation = (
  content: fc.Arbitrary<string>,
  role: fc.Arbitrary<string> = fc.constantFrom("user", "assistant"),
) => fc.array(fc.record({ role, content }), { minLength: 1, maxLength: 4 });
const controls = (tokenizer: Tokenizer, ids: readonly number[]) => ids.filter((id) => tokenizer.isSpecial(id));
const spells = (tokenizer: Tokenizer, text: string) => tokenizer.specialTokens.some((token) => text.includes(token));

const models = [
  ["SmolLM2", smol, smolTemplate],
  ["Phi-3", tiny, tinyTemplate],
  ["Phi-3 saved anew", resaved, resavedTemplate],
] as const;
for (const [name, tokenizer, template] of models) {
  describe(`ChatTemplate, ${name}`, () => {
    test("ordinary messages give the ids of the rendered text", async () => {
      const ordinary = hostileText.filter((text) => !spells(tokenizer, text));
      await fc.assert(
        fc.asyncProperty(conversation(ordinary), fc.boolean(), async (messages, addGenerationPrompt) => {
          const text = await template.renderText(messages, { addGenerationPrompt });
          const wanted = tokenizer.encode(text, { specialTokens: "parse" });
          assert.deepEqual(await template.encode(messages, { addGenerationPrompt }), wanted);
        }),
        { numRuns: 300 },
      );
    });

    test("control tokens are those of the template, whatever messages spell", async () => {
      await fc.assert(
        fc.asyncProperty(conversation(hostileText), async (messages) => {
          const harmless = messages.map((message) => ({ ...message, content: "a" }));
          const wanted = controls(tokenizer, await template.encode(harmless));
          assert.deepEqual(controls(tokenizer, await template.encode(messages)), wanted);
        }),
        { numRuns: 500 },
      );
    });

    test("replyIds stand in the place of the text, and only there", async () => {
      await fc.assert(
        fc.asyncProperty(hostileText, hostileText, anyIds(tokenizer), async (ask, answer, ids) => {
          const messages = [{ role: "user", content: ask }, { role: "assistant", content: answer }];
          const options = { replyIds: new Map([[1, ids]]), addGenerationPrompt: false };
          const before = await template.encode(messages.slice(0, 1));
          const empty = await template.encode(messages, { ...options, replyIds: new Map([[1, []]]) });
          assert.deepEqual(empty.slice(0, before.length), before);
          assert.deepEqual(await template.encode(messages, options), [
            ...before,
            ...ids,
            ...empty.slice(before.length),
          ]);
        }),
        { numRuns: 300 },
      );
    });
  });
}

describe("ChatTemplate", () => {
  const chat: ChatMessage[] = [{ role: "system", content: "Be brief." }, { role: "user", content: "Hi" }];

  test("renders what the model was trained on", async () => {
    const text = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n";
    assert.equal(await smolTemplate.renderText(chat), `${text}<|im_start|>assistant\n`);
    assert.equal(await smolTemplate.renderText(chat, { addGenerationPrompt: false }), text);
    assert.match(await smolTemplate.renderText(chat.slice(1)), /^<\|im_start\|>system\nYou are a helpful AI assistant/);
    assert.deepEqual(controls(smol, await smolTemplate.encode(chat)), [1, 2, 1, 2, 1]);
  });

  test("messages arrive letter for letter, roles too", async () => {
    const text = fc.tuple(smolText, fc.constantFrom("", "\ufdd0", "\ufdd1", "\ufdd0s1\ufdd1", "\ufdd0r0\ufdd1"))
      .map((parts) => parts.join(""));
    await fc.assert(
      fc.asyncProperty(conversation(text, text), async (messages) => {
        const decoded = smol.decode(await smolTemplate.encode(messages), { skipSpecialTokens: false });
        assert.equal(decoded, await smolTemplate.renderText(messages));
      }),
      { numRuns: 300 },
    );
  });

  test("white space after a control token goes, as the model has it", async () => {
    const ids = ["<|user|>", "▁the", "<|end|>", "<|assistant|>"].map(tinyId);
    assert.deepEqual(await tinyTemplate.encode([{ role: "user", content: " \n the" }]), ids);
  });

  test("names of tokens may be objects", async () => {
    const config = { chat_template: "{{ bos_token }}{{ messages[0]['content'] }}", bos_token: { content: "<s>" } };
    const template = ChatTemplate.fromConfig(config, tiny);
    assert.deepEqual(await template.encode([{ role: "user", content: "the" }]), [1, tinyId("▁the")]);
  });

  test("refuses a config without a usable template", async () => {
    for (const config of [null, {}, { chat_template: 1 }]) {
      assert.throws(() => ChatTemplate.fromConfig(config, smol), ChatTemplateError);
    }
    const unparsable = ChatTemplate.fromConfig({ chat_template: "{% for %}" }, smol);
    await assert.rejects(unparsable.encode(chat), ChatTemplateError);
  });

  test("messages that the template refuses are the request's fault", async () => {
    const refused = [{ role: "tool", content: "x" }];
    await assert.rejects(tinyTemplate.encode(refused), (error: unknown) => {
      assert.ok(error instanceof InvalidRequestError);
      assert.match(error.message, /Unknown role/);
      return true;
    });
    await assert.rejects(tinyTemplate.renderText(refused), InvalidRequestError);
  });
});
