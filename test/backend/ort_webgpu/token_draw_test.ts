import assert from "node:assert/strict";
import { test } from "node:test";
import { MOST_RANKED } from "../../../src/backend/backend.ts";
import { findAdapter, openDevice } from "../../../src/backend/ort_webgpu/gpu_device.ts";
import { Usage } from "../../../src/backend/ort_webgpu/gpu_usage.ts";
import { rankedBytes, Ranking, readRanked } from "../../../src/backend/ort_webgpu/ranking.ts";
import { ReadBack } from "../../../src/backend/ort_webgpu/read_back.ts";
import { candidatesOf, TokenDraw } from "../../../src/backend/ort_webgpu/token_draw.ts";
import { createRandom, type Random } from "../../../src/sampling/random.ts";
import { Sampler } from "../../../src/sampling/sampler.ts";
import { resolveSamplingParams, type SamplingParams } from "../../../src/sampling/sampling_params.ts";
import { noGpu } from "./gpu.ts";

/** No multiple of the threads that share it. */
const VOCAB = 1003;

const SAMPLINGS: Record<string, Partial<SamplingParams>> = {
  "all of the vocabulary": { temperature: 1.3 },
  "nearly the best alone": { temperature: 0.05 },
  "top-k": { topK: 40 },
  "top-k of one": { topK: 1 },
  "top-k and top-p": { topK: 50, topP: 0.7, temperature: 0.8 },
  "top-p among all": { topP: 0.6, temperature: 0.9 },
  "min-p": { minP: 0.2, temperature: 2 },
  "all of them": { topK: 100, topP: 0.9, minP: 0.05, temperature: 1.5 },
  "top-k of more than are ranked": { topK: 300, temperature: 2 },
  "top-p among all, which keeps most": { topP: 0.95, temperature: 2 },
  "top-p and min-p among all": { topP: 0.98, minP: 0.1, temperature: 2 },
};

const LOGITS: Record<string, (random: Random) => number> = {
  // As after words.
  "a few tokens likely": (random) => 8 * random() ** 8 - 2 * random(),
  // Top-p keeps some of equals.
  "tokens of four ranks": (random) => Math.floor(4 * random()),
  "tokens all alike": () => 1.5,
};

/** Of each sampling from each kind of logits. */
const DRAWS = 40;

test("the GPU draws the tokens that the sampler draws", { skip: noGpu }, async (t) => {
  const device = await openDevice(await findAdapter());
  const [ranking, draw, reads] = [
    new Ranking(device, VOCAB),
    new TokenDraw(device, VOCAB),
    new ReadBack(device, false),
  ];
  const usage = Usage.STORAGE | Usage.COPY_SRC | Usage.COPY_DST;
  const buffer = (size: number) => device.createBuffer({ size, usage });
  const [logits, ranked, nextId] = [buffer(4 * VOCAB), buffer(rankedBytes(1, VOCAB)), buffer(8)];
  const group = draw.bind(logits, ranked, nextId);
  const cases = Object.entries(LOGITS).flatMap(([kind, logit]) =>
    Object.entries(SAMPLINGS).map(([name, sampling]) => ({ name: `${name}, ${kind}`, sampling, logit }))
  );
  for (const { name, sampling, logit } of cases) {
    await t.test(name, async () => {
      const params = resolveSamplingParams({ doSample: true, seed: 11, ...sampling });
      const sampler = new Sampler(params);
      const random = createRandom(5);
      const drawn = new Set<number>();
      let draws = 0;
      for (let i = 0; i < DRAWS; i++) {
        const values = Float32Array.from({ length: VOCAB }, () => logit(random));
        const upcoming = sampler.upcoming(2);
        if (!upcoming) {
          sampler.sample(values);
          continue;
        }
        draws++;
        device.queue.writeBuffer(logits, 0, values);
        const count = candidatesOf(upcoming);
        const encoder = device.createCommandEncoder();
        ranking.encode(encoder, ranking.bind(count, logits, ranked, nextId), 1);
        draw.encode(encoder, group, upcoming, upcoming.randoms[0]!);
        const read = reads.copy(encoder, { source: ranked, bytes: rankedBytes(1, count) }, {
          source: nextId,
          bytes: 8,
        });
        device.queue.submit([encoder.finish()]);
        const bytes = await read.result();
        const [low, high] = new Uint32Array(bytes, rankedBytes(1, count));
        const { id } = sampler.sample(sampler.wanted === undefined ? values : readRanked(bytes, 1, count)[0]!);
        assert.deepEqual([low, high], [id, 0], `token ${i}`);
        drawn.add(id);
      }
      const isDrawn = params.topK <= MOST_RANKED;
      assert.equal(draws, isDrawn ? DRAWS : 0);
      assert.ok(!isDrawn || params.topK === 1 || drawn.size > 5, `${drawn.size} tokens were drawn`);
    });
  }
  device.destroy();
});
