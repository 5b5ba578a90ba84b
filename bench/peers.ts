/**
 * The same work on others: `bun run bench:peers [--only peer,…] [--threads 1,2] [--rounds N] [--record]`, and with
 * `--phi3 folder --gguf file` a synthetic Phi-3 against its twin on llama.cpp. Every peer decodes the same prompt
 * greedily and prefills the same 512 tokens, in a process of its own, taking turns. The last line of stdout is one
 * JSON document.
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { availableCpus } from "../src/backend/host_resources.ts";
import { type Measured, measurePeers } from "./peers/measure.ts";
import type { PeerScript } from "./peers/peer_process.ts";
import { peerRows, ratioFigures } from "./peers/peer_ratios.ts";
import { bundledWorkload, phi3Workload, PREFILL_TOKENS } from "./peers/workload.ts";
import { writeRecord } from "./record.ts";
import { type CaseResult, describeMachine, type Environment, progress, table } from "./report.ts";

const OURS = "hearth_simd";

/** What is WebAssembly in this process runs on the page's runtime; native code and browsers are started by Bun. */
const PEERS: Readonly<Record<string, PeerScript>> = {
  [OURS]: { script: ["hearth", "simd"], runtime: "page" },
  hearth_ort_wasm: { script: ["hearth", "ort-wasm"], runtime: "page" },
  onnxruntime_web: { script: ["onnxruntime_web"], runtime: "page" },
  onnxruntime_node: { script: ["onnxruntime_node"], runtime: "bun" },
  transformers: { script: ["transformers"], runtime: "bun" },
  llama_cpp: { script: ["llama_cpp"], runtime: "bun" },
  wllama: { script: ["wllama"], runtime: "bun" },
};

/** The peers that have a synthetic Phi-3 to run. */
const PHI3_PEERS = [OURS, "llama_cpp"];

/** Tokens of context at which Phi-3 decodes, in the middle of its answer. */
const PHI3_CONTEXT = 100;

const { values: flags } = parseArgs({
  options: {
    only: { type: "string" },
    threads: { type: "string" },
    rounds: { type: "string", default: "4" },
    tokens: { type: "string", default: "32" },
    phi3: { type: "string" },
    gguf: { type: "string" },
    record: { type: "boolean", default: false },
    out: { type: "string", default: join(import.meta.dirname!, "record") },
  },
});
const names = flags.only?.split(",") ?? (flags.phi3 ? PHI3_PEERS : Object.keys(PEERS));
const unknown = names.find((name) => !(name in PEERS));
if (unknown !== undefined || (flags.phi3 === undefined) !== (flags.gguf === undefined)) {
  console.error(
    unknown !== undefined
      ? `Cannot measure "${unknown}": wanted ${Object.keys(PEERS).join(", ")}`
      : "Cannot measure Phi-3: one of --phi3 folder and --gguf file, wanted both",
  );
  process.exit(1);
}
const scripts = Object.fromEntries(names.map((name) => [name, PEERS[name]!]));
const threadCounts = flags.threads?.split(",").map(Number) ?? [...new Set([1, availableCpus()])];
const maxTokens = Number(flags.tokens);
const { model, tokenizer, gguf, prompt, longPrompt } = flags.phi3
  ? await phi3Workload(flags.phi3, flags.gguf!, PHI3_CONTEXT - maxTokens / 2)
  : await bundledWorkload();

const measured: Measured[] = [];
const skipped = new Set<string>();
for (const threads of threadCounts) {
  const task = { threads, modelFolder: model.path, gguf };
  const round = { decode: { prompt, maxTokens }, prefill: { prompt: longPrompt, maxTokens: 1 } };
  const onSkip = (peer: string, reason: string) => skipped.add(`${peer} skipped: ${reason}`);
  measured.push(...await measurePeers(scripts, task, round, { rounds: Number(flags.rounds), progress, onSkip }));
}
progress("");
if (measured.length === 0) throw new Error(`Cannot compare: ${[...skipped].join("; ")}`);

const textOf = ({ output }: Measured) => "text" in output ? output.text : tokenizer.decode(output.ids);
const rows = peerRows(measured, OURS, textOf);
// A peer with other arithmetic may take the other side of a near-tie; the work stays the same length.
const others = new Set(
  measured.flatMap((peer, i) =>
    rows[i]!["same text"] === "no" ? [`${peer.peer} says: ${JSON.stringify(textOf(peer))}`] : []
  ),
);
const result: CaseResult = {
  name: flags.phi3 ? "peers_phi3" : "peers",
  question: `How fast are ${maxTokens} greedy tokens and a prefill of ${PREFILL_TOKENS}, here and elsewhere?`,
  checked: ["as many tokens each; texts compared", ...others, ...skipped].join("; "),
  rows,
  figures: ratioFigures(measured, OURS),
  plot: {
    title: "Greedy decoding, more is better",
    x: "",
    y: "tokens a second",
    points: measured.map(({ peer, threads, msPerToken }) => ({
      x: peer,
      y: 1000 / msPerToken,
      series: threads === 1 ? "1 thread" : `${threads} threads`,
    })),
  },
};
const environment: Environment = {
  ...describeMachine(),
  model: model.id,
  backend: "each its own",
  variant: measured[0]!.version,
  threads: Math.max(...threadCounts),
};
console.log(`${result.question}\n(${result.checked})\n\n${table(rows)}`);
if (flags.record) {
  for (const path of await writeRecord(flags.out, environment, result)) console.log(`wrote ${path}`);
}
console.log(JSON.stringify({ environment, cases: [{ ...result, plot: undefined }] }));
