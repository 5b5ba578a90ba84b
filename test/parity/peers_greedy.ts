/**
 * Other programs on the committed model folder, unchanged: transformers.js, and onnxruntime-genai of PyPI. They must
 * cut a prompt into the same ids and give the same greedy answer as ours, up to the first token that hangs on a
 * near-tie of logits. Ends in one line, `N passed, N failed`.
 *
 *   PYTHON=python3 bun test/parity/peers_greedy.ts
 */
import { spawn } from "node:child_process";
import { text as readText } from "node:stream/consumers";
import { join } from "node:path";
import { AutoModelForCausalLM, AutoTokenizer, env, Tensor } from "@huggingface/transformers";
import { argmax } from "../../src/sampling/softmax.ts";
import { stopTokenIds } from "../../src/model/model_folder.ts";
import { OurModel } from "./our_model.ts";
import { Report } from "./report.ts";

const NEW_TOKENS = 48;
/** Two tokens whose logits are closer than this may change places. */
const NEAR_TIE = 0.15;

const questions = [
  "What is the capital of France?",
  "Tell me three facts about the sea.",
  "Write a short poem about a lighthouse.",
];

/** A peer's answer, by its own tokenizer. Both lists end with the end token, where there is one. */
interface Answer {
  prompt: number[];
  answer: number[];
  text: string;
}

/** Our answer, with the logits that each token was chosen by. */
interface OurAnswer extends Answer {
  logits: Float32Array[];
}

async function ours(model: OurModel, rendered: string): Promise<OurAnswer> {
  const stop = stopTokenIds(model.folder, model.tokenizer.eosTokenId);
  const prompt = model.tokenizer.encode(rendered, { specialTokens: "parse" });
  const answer: number[] = [];
  const logits: Float32Array[] = [];
  using cache = model.backend.createKvCache();
  let tokenIds = prompt;
  while (answer.length < NEW_TOKENS && !stop.has(answer.at(-1) ?? -1)) {
    const [result] = await model.backend.forward([{ cache, tokenIds }]);
    logits.push(result!.logits);
    answer.push(argmax(result!.logits));
    tokenIds = [answer.at(-1)!];
  }
  return { prompt, answer, text: model.tokenizer.decode(answer), logits };
}

async function transformersJs(folder: string, prompts: readonly string[]): Promise<Answer[]> {
  env.allowRemoteModels = false;
  env.localModelPath = "/";
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  const model = await AutoModelForCausalLM.from_pretrained(folder, { dtype: "q4" });
  const answers: Answer[] = [];
  for (const rendered of prompts) {
    const inputs = tokenizer(rendered, { add_special_tokens: false });
    const outputs = await model.generate({ ...inputs, max_new_tokens: NEW_TOKENS, do_sample: false });
    if (!(outputs instanceof Tensor)) throw new Error("transformers.js gave no tensor of ids");
    const ids = Array.from(outputs.data as BigInt64Array, Number);
    const prompt: number[] = Array.from(inputs.input_ids.data as BigInt64Array, Number);
    const answer = ids.slice(prompt.length);
    answers.push({ prompt, answer, text: tokenizer.decode(answer, { skip_special_tokens: true }) });
  }
  await model.dispose();
  return answers;
}

async function genai(folder: string, prompts: readonly string[]): Promise<Answer[]> {
  const child = spawn(process.env.PYTHON ?? "python3", [join(import.meta.dirname, "genai.py"), folder], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = new Promise<number | null>((resolve, reject) => child.once("error", reject).once("close", resolve));
  child.stdin.end(JSON.stringify({ prompts, new_tokens: NEW_TOKENS }));
  const [output, code] = await Promise.all([readText(child.stdout), exit]);
  if (code !== 0) throw new Error(`genai.py ended with exit code ${code}`);
  return JSON.parse(output);
}

/** Two checks: the prompt's ids, and the answer. */
function compare(name: string, model: OurModel, our: OurAnswer, their: Answer | undefined): void {
  const samePrompt = String(our.prompt) === String(their?.prompt);
  report.check(`${name}, prompt`, samePrompt, `${our.prompt.length} ids${samePrompt ? ", the same" : " differ"}`);
  if (!their) return report.check(name, false, "no answer");
  const length = Math.max(our.answer.length, their.answer.length);
  const at = Array.from({ length }, (_, i) => i).find((i) => our.answer[i] !== their.answer[i]);
  if (at === undefined) {
    const sameText = our.text === their.text;
    report.check(name, sameText, `${length} tokens and ${sameText ? "their text the same" : "other text"}`);
    if (!sameText) console.log(`     ours   ${JSON.stringify(our.text)}\n     theirs ${JSON.stringify(their.text)}`);
    return;
  }
  const [mine, other] = [our.answer[at], their.answer[at]];
  if (mine === undefined || other === undefined) {
    return report.check(name, false, `lengths ${our.answer.length} and ${their.answer.length}, the same until there`);
  }
  const margin = our.logits[at]![mine]! - our.logits[at]![other]!;
  report.check(
    name,
    samePrompt && margin < NEAR_TIE,
    `${at} tokens the same, then ours ${model.token(mine)}, theirs ${model.token(other)}: ` +
      `our logits lie ${margin.toFixed(4)} apart`,
  );
}

const report = new Report();
await report.attempt("peers", async () => {
  await using model = await OurModel.load();
  const prompts = await Promise.all(
    questions.map((content) => model.template.renderText([{ role: "user", content }])),
  );
  const ourAnswers: OurAnswer[] = [];
  for (const rendered of prompts) ourAnswers.push(await ours(model, rendered));
  for (const { text } of ourAnswers) console.log(`     ours: ${JSON.stringify(text)}`);
  for (const [peer, ask] of [["transformers.js", transformersJs], ["onnxruntime-genai", genai]] as const) {
    await report.attempt(peer, async () => {
      const theirs = await ask(model.folder.path, prompts);
      ourAnswers.forEach((our, i) => compare(`${peer}, "${questions[i]}"`, model, our, theirs[i]));
    });
  }
});
report.end();
