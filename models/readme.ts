import { SOURCE_PACKAGE } from "./source_package.ts";

/** `README.md` of the model folder: where the weights come from, and what was done to them. */
export function modelReadme(): string {
  return `---
license: apache-2.0
language: en
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
pipeline_tag: text-generation
---

# SmolLM2-135M-Instruct in Phi-3's ONNX graph

[SmolLM2-135M-Instruct](https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) by HuggingFaceTB (Apache-2.0),
converted by \`models/build.ts\`. Everything here is derived from one file and the same input gives the same bytes.

- Source: \`${SOURCE_PACKAGE.file}\` from the Python package \`${SOURCE_PACKAGE.requirement}\`, sha256
  \`${SOURCE_PACKAGE.fileSha256}\`
- \`manifest.json\` has the size and sha256 of each file.

## What was kept

- Each weight. Q4_1 blocks (weight = d * q + m) became MatMulNBits blocks of the same 4-bit q with scale = d and a float
  zero point of -m / d: equal up to f32 rounding. The Q8_0 embedding became uint8 with zero point 128: exactly equal.
  The norms are f32 as they were.
- Vocabulary, merges, special tokens and chat template.

## What was changed

- q, k and v are one matrix (\`qkv_proj\`), gate and up are one (\`gate_up_proj\`): rows one after another.
- The rows of q and k are in Hugging Face's order, for rotary embedding by halves; GGUF has them for pairs.
- The output head is the embedding, as in the original; both point at the same bytes.
- \`accuracy_level\` is 0: activations stay f32.

## Graph

The layout that onnxruntime-genai writes for Phi-3 on CPU in int4: GatherBlockQuantized,
SkipSimplifiedLayerNormalization, MatMulNBits, GroupQueryAttention. Inputs \`input_ids\`, \`attention_mask\`,
\`past_key_values.{i}.key|value\`; outputs \`logits\`, \`present.{i}.key|value\`; f32. Loads in onnxruntime (native and web),
transformers.js (\`dtype: "q4"\`) and onnxruntime-genai.
`;
}
