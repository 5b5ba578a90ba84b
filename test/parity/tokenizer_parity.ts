/**
 * Our token ids and prompts against those of other implementations: the `tokenizers` and `jinja2` packages of PyPI,
 * and llama.cpp. Ends in one line, `N passed, N failed`.
 *
 *   PYTHON=python3 HEARTH_GGUF=model.gguf bun test/parity/tokenizer_parity.ts
 *
 * HEARTH_GGUF is the file that the bundled model was built from (see models/build.ts).
 */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { type ChatMessage, ChatTemplate } from "../../src/tokenizer/chat_template.ts";
import { Tokenizer } from "../../src/tokenizer/tokenizer.ts";
import { tinyConfig, tinyJson } from "../tokenizer/tiny_sentencepiece.ts";
import { phi3Config, phi3Content, phi3Json, phi3Prompt, phi3ResavedJson } from "./phi3_prompts.ts";
import { besideAddedTokens, tokenizerStrings } from "./tokenizer_strings.ts";

/** Ids of every text, control tokens as tokens and as ordinary text. */
interface Ids {
  parse: readonly (readonly number[])[];
  text: readonly (readonly number[])[];
}

const model = join(import.meta.dirname, "..", "..", "models", "smollm2-135m-instruct");
const readJson = async (path: string) => JSON.parse(await readFile(path, "utf8"));

const tokenizerJson = await readJson(join(model, "tokenizer.json"));
const config = await readJson(join(model, "tokenizer_config.json"));
const tokenizer = Tokenizer.fromJson(tokenizerJson, config);
const template = ChatTemplate.fromConfig(config, tokenizer);
const texts = tokenizerStrings(tokenizer.specialTokens);
/** The bundled model is of the byte-level kind; these are of the other one. */
const phi3 = Tokenizer.fromJson(phi3Json, phi3Config);
const phi3Template = ChatTemplate.fromConfig(phi3Config, phi3);
const phi3Texts = [...tokenizerStrings(phi3.specialTokens), ...besideAddedTokens(phi3.specialTokens)];
const tiny = Tokenizer.fromJson(tinyJson, tinyConfig);
const tinyTexts = [...tokenizerStrings(tiny.specialTokens), ...besideAddedTokens(tiny.specialTokens)];
const counts = { passed: 0, failed: 0 };

/** 240 conversations of one to six messages, half of them with a system message. */
function conversationsOf(texts: readonly string[]) {
  return Array.from({ length: 240 }, (_, i) => {
    const messages: ChatMessage[] = i % 2 ? [{ role: "system", content: texts[i]! }] : [];
    for (let turn = 0; turn <= i % 5; turn++) {
      messages.push({ role: turn % 2 ? "assistant" : "user", content: texts[(i * 7 + turn * 131) % texts.length]! });
    }
    return { messages, add_generation_prompt: i % 3 !== 0 };
  });
}

/** Runs one of the Python programs beside this file: a definition and an input in, JSON out. */
async function python(script: string, definition: unknown, input: unknown): Promise<unknown> {
  const folder = await mkdtemp(join(tmpdir(), "hearth-parity-"));
  try {
    const paths = ["definition.json", "input.json", "output.json"].map((name) => join(folder, name));
    await writeFile(paths[0]!, JSON.stringify(definition));
    await writeFile(paths[1]!, JSON.stringify(input));
    await promisify(execFile)(process.env.PYTHON ?? "python3", [join(import.meta.dirname, script), ...paths]);
    return await readJson(paths[2]!);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function pypi(json: unknown, { specialTokens }: Tokenizer, texts: readonly string[]): Promise<Ids> {
  return await python("tokenizers.py", json, { texts, control: specialTokens }) as Ids;
}

async function llamaCpp(): Promise<Ids> {
  const modelPath = process.env.HEARTH_GGUF;
  if (!modelPath) throw new Error("Cannot ask llama.cpp: set HEARTH_GGUF to the GGUF the model was built from");
  const llama = await getLlama({ build: "never", gpu: false, logLevel: LlamaLogLevel.error });
  const model = await llama.loadModel({ modelPath, vocabOnly: true });
  const result = {
    parse: texts.map((text) => model.tokenize(text, true)),
    text: texts.map((text) => model.tokenize(text, false)),
  };
  await model.dispose();
  await llama.dispose();
  return result;
}

/** One check: all of `wanted` or nothing. */
function compare(name: string, inputs: readonly unknown[], ours: readonly unknown[], wanted: readonly unknown[]) {
  const differing = inputs.flatMap((input, i) => {
    const [got, want] = [JSON.stringify(ours[i]), JSON.stringify(wanted[i])];
    return got === want ? [] : [`  ${JSON.stringify(input)}\n    ours   ${got}\n    theirs ${want}`];
  });
  const passed = differing.length === 0 && inputs.length > 0 && wanted.length === inputs.length;
  counts[passed ? "passed" : "failed"]++;
  console.log(`${passed ? "ok  " : "FAIL"} ${name}: ${inputs.length - differing.length} of ${inputs.length} identical`);
  for (const line of differing.slice(0, 5)) console.log(line);
}

/** Checks that fall together when what they ask can't be run. */
async function attempt(names: readonly string[], check: () => Promise<void>) {
  try {
    await check();
  } catch (error) {
    counts.failed += names.length;
    for (const name of names) console.log(`FAIL ${name}: ${(error as Error).message}`);
  }
}

/** Two checks: our ids against another's, control tokens parsed and not. */
async function compareIds(name: string, tokenizer: Tokenizer, texts: readonly string[], ask: () => Promise<Ids>) {
  await attempt([`${name} parse`, `${name} text`], async () => {
    const theirs = await ask();
    for (const specialTokens of ["parse", "text"] as const) {
      const ours = texts.map((text) => tokenizer.encode(text, { specialTokens }));
      compare(`${name} ${specialTokens}`, texts, ours, theirs[specialTokens]);
    }
  });
}

await compareIds("pypi", tokenizer, texts, () => pypi(tokenizerJson, tokenizer, texts));
await compareIds("pypi SentencePiece", tiny, tinyTexts, () => pypi(tinyJson, tiny, tinyTexts));
await compareIds("pypi Phi-3", phi3, phi3Texts, () => pypi(phi3Json, phi3, phi3Texts));
const resaved = Tokenizer.fromJson(phi3ResavedJson, phi3Config);
await compareIds("pypi Phi-3 saved anew", resaved, phi3Texts, () => pypi(phi3ResavedJson, resaved, phi3Texts));
await compareIds("llama.cpp", tokenizer, texts, llamaCpp);

/** One check: prompts as text against Jinja's. */
async function compareRendered(name: string, template: ChatTemplate, config: unknown, texts: readonly string[]) {
  await attempt([name], async () => {
    const conversations = conversationsOf(texts);
    const rendered = await Promise.all(
      conversations.map(({ messages, add_generation_prompt }) =>
        template.renderText(messages, { addGenerationPrompt: add_generation_prompt })
      ),
    );
    compare(name, conversations, rendered, await python("jinja.py", config, conversations) as string[]);
  });
}

await compareRendered("jinja", template, config, texts);
await compareRendered("jinja Phi-3", phi3Template, phi3Config, phi3Texts);
await attempt(["prompts Phi-3"], async () => {
  const conversations = conversationsOf(phi3Texts);
  const { text } = await pypi(phi3Json, phi3, conversations.flatMap(({ messages }) => messages.map(phi3Content)));
  let at = 0;
  const wanted = conversations.map(({ messages, add_generation_prompt }) =>
    phi3Prompt(messages, text.slice(at, at += messages.length), add_generation_prompt)
  );
  const ours = await Promise.all(
    conversations.map(({ messages, add_generation_prompt }) =>
      phi3Template.encode(messages, { addGenerationPrompt: add_generation_prompt })
    ),
  );
  compare("prompts Phi-3", conversations, ours, wanted);
});

console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 ? 1 : 0;
