"""Greedy answers of a model folder by onnxruntime-genai (PyPI).

python genai.py MODEL_FOLDER
reads from standard input {"prompts": [text, ...], "new_tokens": n}
writes to standard output [{"prompt": [id, ...], "answer": [id, ...], "text": text}, ...]
"""

import json
import sys

# A script's folder comes first in sys.path, and files here have names of packages.
sys.path.pop(0)
import onnxruntime_genai as og  # noqa: E402


def main(folder):
    input = json.load(sys.stdin)
    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    answers = []
    for prompt in input["prompts"]:
        ids = tokenizer.encode(prompt)
        params = og.GeneratorParams(model)
        params.set_search_options(
            max_length=len(ids) + input["new_tokens"], do_sample=False
        )
        generator = og.Generator(model, params)
        generator.append_tokens(ids)
        answer = []
        while not generator.is_done():
            generator.generate_next_token()
            answer.append(int(generator.get_next_tokens()[0]))
        answers.append(
            {
                "prompt": [int(id) for id in ids],
                "answer": answer,
                "text": tokenizer.decode(answer),
            }
        )
    json.dump(answers, sys.stdout)


main(sys.argv[1])
