import assert from "node:assert/strict";
import type { Phi3Shape } from "../../models/phi3_shape.ts";
import type { Engine } from "../../src/engine/engine.ts";
import {
  compareDecoding,
  completeGreedily,
  forwardPass,
  type KvCacheTimings,
  showArchitecture,
  showAttention,
  timeKvCache,
  type TimeKvCacheOptions,
} from "../../src/notebook/walk.ts";

/** What a step prints, and what it is to be true of. */
type Step = (engine: Engine, shape: Phi3Shape) => Promise<string>;

/** Runs a step. @returns what it came to, and all that it printed */
async function printed<T>(step: (print: (line: string) => void) => T | Promise<T>) {
  const lines: string[] = [];
  return { result: await step((line) => lines.push(line)), text: () => lines.join("\n") };
}

/** The numbers of `[1, 8, 3072]` behind a label. */
function shapeAfter(text: string, label: string): number[] {
  const found = text.slice(text.indexOf(label)).match(/\[([\d, ]+)\]/);
  assert.ok(text.includes(label) && found, `${label}: no shape in\n${text}`);
  return found[1]!.split(", ").map(Number);
}

/** The modules of Phi-3's GroupQueryAttention export in a shape, one regular expression a line. */
function modulesOf(shape: Phi3Shape): RegExp[] {
  const { hiddenSize: hidden, intermediateSize: inner, numHiddenLayers: layers, vocabSize, headDim } = shape;
  const { numAttentionHeads: heads, numKeyValueHeads: kvHeads } = shape;
  const linear = (name: string, from: number, to: number) =>
    new RegExp(`\\(${name}\\): Linear\\(in=${from}, out=${to}, int4 in blocks of 32\\)`);
  return [
    /^Phi3ForCausalLM\($/m,
    new RegExp(`\\(embed_tokens\\): Embedding\\(${vocabSize}, ${hidden}, float\\)`),
    new RegExp(`\\(layers\\.0 to layers\\.${layers - 1}\\): ${layers} x \\(`),
    new RegExp(`\\(input_layernorm\\): RMSNorm\\(${hidden}\\)`),
    linear("qkv_proj", hidden, (heads + 2 * kvHeads) * headDim),
    new RegExp(`GroupQueryAttention\\(heads=${heads}, kv_heads=${kvHeads}, .*window=${shape.slidingWindow}\\)`),
    linear("o_proj", heads * headDim, hidden),
    new RegExp(`\\(post_attention_layernorm\\): RMSNorm\\(${hidden}\\)`),
    linear("gate_proj", hidden, inner),
    linear("up_proj", hidden, inner),
    linear("down_proj", inner, hidden),
    new RegExp(`\\(final_norm_layernorm\\): RMSNorm\\(${hidden}\\)`),
    linear("lm_head", hidden, vocabSize),
  ];
}

/**
 * The steps of the notebook walk on a synthetic Phi-3 in the layout `genai`, each with the shapes that its model has to
 * have. A step returns a line that says what it saw.
 * @param timing what the last step may take
 * @param checkTimings what its times have to be, where they say something
 */
export function walkSteps(
  timing: TimeKvCacheOptions,
  checkTimings: (timings: KvCacheTimings) => void = () => {},
): Record<string, Step> {
  return {
    "(a) the modules and their shapes": async (engine, shape) => {
      const { text } = await printed((print) => showArchitecture(engine, print));
      let at = 0;
      for (const module of modulesOf(shape)) {
        const found = module.exec(text().slice(at));
        assert.ok(found, `${module} is missing, or not in its place:\n${text()}`);
        at += found.index;
      }
      return `${shape.numHiddenLayers} layers, embedding [${shape.vocabSize}, ${shape.hiddenSize}]`;
    },

    "(b) a greedy answer": async (engine) => {
      const { result, text } = await printed((print) => completeGreedily(engine, print));
      assert.ok(result.length > 0 && text().endsWith(result), text());
      return `${result.length} characters`;
    },

    "(c) ids, hidden states and logits of one forward pass": async (engine, shape) => {
      const { result: pass, text } = await printed((print) => forwardPass(engine, print));
      const n = pass.inputIds.length;
      assert.deepEqual(shapeAfter(text(), "input_ids"), [1, n]);
      assert.deepEqual(pass.hiddenShape, [1, n, shape.hiddenSize]);
      assert.deepEqual(pass.logitsShape, [1, n, shape.vocabSize]);
      assert.deepEqual(shapeAfter(text(), "last hidden state"), pass.hiddenShape);
      assert.deepEqual(shapeAfter(text(), "lm_head output"), pass.logitsShape);
      assert.equal(pass.top.length, 5);
      const probabilities = pass.top.map(({ probability }) => probability);
      assert.deepEqual(probabilities, probabilities.toSorted((a, b) => b - a));
      assert.ok(probabilities.every((p) => p > 0 && p < 1) && pass.top.every(({ id }) => id < shape.vocabSize));
      return `[${pass.hiddenShape.join(", ")}], [${pass.logitsShape.join(", ")}]`;
    },

    "(c) the inside of attention": async (engine, shape) => {
      const { numAttentionHeads: heads, numKeyValueHeads: kvHeads, headDim } = shape;
      const { result: shapes, text } = await printed((print) => showAttention(engine, print));
      if (!engine.backend.info.inspects) {
        assert.match(text(), /^skipped: backend/);
        return text();
      }
      const n = shapes!.q[1]!;
      assert.equal(shapes!.layer, Math.floor(shape.numHiddenLayers / 2));
      assert.deepEqual(shapes!.q, [1, n, heads, headDim]);
      assert.deepEqual([shapes!.k, shapes!.v], [[1, n, kvHeads, headDim], [1, n, kvHeads, headDim]]);
      assert.deepEqual(shapes!.weights, [1, heads, n, n]);
      const rows = text().split("\n").filter((line) => /^head +\d+ /.test(line));
      assert.equal(rows.length, heads);
      for (const row of rows) {
        const percents = [...row.matchAll(/(\d+)%/g)].map(([, percent]) => Number(percent));
        assert.equal(percents.length, n);
        // Each is rounded.
        assert.ok(Math.abs(percents.reduce((sum, percent) => sum + percent, 0) - 100) <= n / 2 + 1, row);
      }
      return `Q [${shapes!.q.join(", ")}], weights [${shapes!.weights.join(", ")}]`;
    },

    "(d) greedy and sampled answers": async (engine) => {
      const { result: answers } = await printed((print) => compareDecoding(engine, print));
      assert.equal(answers["greedy"], answers["greedy again"]);
      const different = new Set(Object.values(answers)).size;
      assert.ok(different >= 3, JSON.stringify(answers));
      return `${different} different answers of ${Object.keys(answers).length}`;
    },

    "(e) with the KV cache and without": async (engine) => {
      const { result: timings, text } = await printed((print) => timeKvCache(engine, print, timing));
      assert.ok(timings.sameText, text());
      assert.match(text(), new RegExp(`use_cache false: .* runs of ${timings.tokens} tokens\\)`));
      checkTimings(timings);
      const { tokens, withCache, withoutCache } = timings;
      return `${tokens} tokens in ${(withCache.meanMs / 1000).toFixed(2)} s, without it ${
        (withoutCache.meanMs / 1000).toFixed(2)
      } s`;
    },
  };
}
