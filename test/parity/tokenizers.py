"""Ids of texts by the `tokenizers` package, which other implementations are measured against.

python tokenizers.py TOKENIZER_JSON INPUT_JSON IDS_JSON
reads {"texts": [...], "control": [token, ...]}
writes {"parse": [[id, ...], ...], "text": [[id, ...], ...]}: control tokens as tokens, and as ordinary text.
"""

import json
import sys

# A script's folder comes first in sys.path, and this file has the package's name.
sys.path.pop(0)
from tokenizers import Tokenizer  # noqa: E402


def main(tokenizer_path, input_path, ids_path):
    with open(tokenizer_path, encoding="utf-8") as file:
        parsing = json.load(file)
    with open(input_path, encoding="utf-8") as file:
        input = json.load(file)
    added = [
        token
        for token in parsing["added_tokens"]
        if token["content"] not in input["control"]
    ]
    literal = {**parsing, "added_tokens": added}
    result = {}
    for name, definition in (("parse", parsing), ("text", literal)):
        tokenizer = Tokenizer.from_str(json.dumps(definition))
        result[name] = [
            encoding.ids
            for encoding in tokenizer.encode_batch(
                input["texts"], add_special_tokens=False
            )
        ]
    with open(ids_path, "w", encoding="utf-8") as file:
        json.dump(result, file)


main(*sys.argv[1:])
