#!/usr/bin/env python3
"""Makes goldens.json: conversations and what the real models' chat templates make of them.

    pip install gguf jinja2
    python3 make.py MODELS_DIR

The oracle is jinja2 set up as Hugging Face's `apply_chat_template` does.
"""
import json
import os
import sys

import gguf
from jinja2.exceptions import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "qwen2.5": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
}
# Templates of our own for what the real ones do not use.
OTHERS = {
    "json": "{{ messages | tojson }}\n{{ tools | tojson(indent=2) }}\n{{ {'b': 1.5, 'a': [1e-7, 1e22, true, none, 'é<&>\\'\"\\n']} | tojson(sort_keys=true) }}",
    "json_separators": "{{ messages[0] | tojson(separators=(',', ':')) }}{{ [] | tojson(indent=4) }}",
    "blocks": "  {% if true %}\n  a\n  {%- endif %}\n\n{% for m in messages %}\n    {{ loop.index }}{{ m.role }}\n    {% if loop.last %}{% break %}{% endif %}\n{% endfor %}\n{# c #}\nend\n",
    "methods": "{% for m in messages %}{{ m.content.strip().split()[0] if m.content.strip() else '-' }}|{{ m['role'].upper() }}|{{ m.content.startswith('H') }}|{{ m.get('x', 'no') }}|{{ m.content | trim | length }};{% endfor %}{{ messages[1:] | length }}{{ messages[-1].role }}",
    "namespace": "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s ~ m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}{{ tools is none }}{{ tools is defined }}{{ x is defined }}{{ messages is iterable }}{{ messages[0].content is string }}{{ bos_token }}",
    "macro": "{% macro say(m, loud=false) %}[{{ m.role }}: {{ m.content if not loud else m.content | upper }}]{% endmacro %}{% for m in messages if m.role != 'system' %}{{ say(m, loud=loop.first) }}{% else %}none{% endfor %}",
    "generation": "{% for m in messages %}{%- if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "raise": "{% if messages[0].role != 'system' %}{{ raise_exception('the first message must be the system\\'s') }}{% endif %}ok",
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a place — today's \"real\" one",
     "parameters": {"type": "object", "properties": {"place": {"type": "string", "description": "città, 東京 <b>&"},
      "days": {"type": "integer", "default": 3}, "scale": {"type": "number", "default": 0.5}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {}}},
]
CALLS = [
    {"role": "user", "content": "How warm is it in Oslo?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [
        {"type": "function", "function": {"name": "get_weather", "arguments": {"place": "Oslo", "days": 1}}}]},
    {"role": "tool", "content": "{\"celsius\": -3.5}", "name": "get_weather"},
    {"role": "tool", "content": "snow ❄️", "name": "get_weather"},
    {"role": "assistant", "content": "-3.5 °C, and snow."},
    {"role": "user", "content": "Thanks"},
]
CHATS = [
    ([{"role": "user", "content": "Hello"}], None, True),
    ([{"role": "user", "content": "Hello"}], None, False),
    ([{"role": "system", "content": "Be terse.\n"}, {"role": "user", "content": "  Hi 👋🏽\n\n"}], None, True),
    ([{"role": "system", "content": "S"}, {"role": "user", "content": "How?\n"}, {"role": "assistant", "content": "So."},
      {"role": "user", "content": "{{ 7*7 }}{% raw %} <b>&amp;"}], None, True),
    (CALLS, TOOLS, True),
    ([{"role": "system", "content": "Use tools."}] + CALLS[:2], TOOLS[:1], False),
]


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


def text_of(reader, key):
    field = reader.get_field(key)
    return None if field is None else field.contents()


def main():
    goldens = []
    cases = [(name, source, "<s>", "</s>") for name, source in OTHERS.items()]
    for name, file in MODELS.items():
        reader = gguf.GGUFReader(os.path.join(sys.argv[1], file))
        tokens = reader.get_field("tokenizer.ggml.tokens")
        bos, eos = (tokens.contents(text_of(reader, f"tokenizer.ggml.{x}_token_id")) for x in ("bos", "eos"))
        cases.append((name, text_of(reader, "tokenizer.chat_template"), bos, eos))
    for name, source, bos, eos in cases:
        # Hugging Face's tag for training; it prints what it holds.
        plain = source.replace("{% generation %}", "{% if true %}").replace("{% endgeneration %}", "{% endif %}")
        template = environment().from_string(plain)
        results = []
        for messages, tools, add in CHATS:
            try:
                results.append({"text": template.render(messages=messages, tools=tools, documents=None,
                                add_generation_prompt=add, bos_token=bos, eos_token=eos)})
            except TemplateError as error:
                results.append({"error": str(error)})
        goldens.append({"name": name, "source": None if name in MODELS else source, "results": results})
    chats = [{"messages": m, "tools": t, "add_generation_prompt": a} for m, t, a in CHATS]
    with open(os.path.join(HERE, "goldens.json"), "w", encoding="utf8") as file:
        json.dump({"chats": chats, "goldens": goldens}, file, ensure_ascii=False, indent=1)
        file.write("\n")


main()
