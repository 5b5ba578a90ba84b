import assert from "node:assert/strict";
import { test } from "node:test";
import { findAdapter, openDevice } from "../../../src/backend/ort_webgpu/gpu_device.ts";
import { Usage } from "../../../src/backend/ort_webgpu/gpu_usage.ts";
import { rankedBytes, Ranking, readRanked } from "../../../src/backend/ort_webgpu/ranking.ts";
import { ReadBack } from "../../../src/backend/ort_webgpu/read_back.ts";
import { candidatesOf, TokenDraw } from "../../../src/backend/ort_webgpu/token_draw.ts";
import { createRandom } from "../../../src/sampling/random.ts";
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
};

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
  for (const [name, sampling] of Object.entries(SAMPLINGS)) {
    await t.test(name, async () => {
      const params = resolveSamplingParams({ doSample: true, seed: 11, ...sampling });
      const sampler = new Sampler(params);
      const random = createRandom(5);
      const drawn = new Set<number>();
      for (let i = 0; i < 40; i++) {
        // A few tokens are likely, as after words.
        const values = Float32Array.from({ length: VOCAB }, () => 8 * random() ** 8 - 2 * random());
        device.queue.writeBuffer(logits, 0, values);
        const upcoming = sampler.upcoming(2)!;
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
      assert.ok(params.topK === 1 || drawn.size > 5, `${drawn.size} tokens were drawn`);
    });
  }
  device.destroy();
});
