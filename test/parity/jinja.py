"""Chat templates rendered by Jinja itself, set up as in Hugging Face transformers.

python jinja.py TOKENIZER_CONFIG_JSON CONVERSATIONS_JSON TEXTS_JSON
reads [{"messages": [...], "add_generation_prompt": bool}, ...], writes [text, ...]
https://github.com/huggingface/transformers/blob/main/src/transformers/utils/chat_template_utils.py
"""

import json
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment


def main(config_path, conversations_path, texts_path):
    with open(config_path, encoding="utf-8") as file:
        config = json.load(file)
    with open(conversations_path, encoding="utf-8") as file:
        conversations = json.load(file)
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(config["chat_template"])
    names = ("bos_token", "eos_token")
    variables = {name: config[name] for name in names if config.get(name)}
    texts = [template.render(**variables, **conversation) for conversation in conversations]
    with open(texts_path, "w", encoding="utf-8") as file:
        json.dump(texts, file)


main(*sys.argv[1:])
