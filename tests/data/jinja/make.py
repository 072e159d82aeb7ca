#!/usr/bin/env python3
"""Records what Python makes of templates: jinja2 as Hugging Face transformers sets it up, at a fixed time.

    python3.11 -m venv VENV && VENV/bin/pip install jinja2==3.1.6 transformers==5.24.0
    VENV/bin/python make.py                              cases.jsonl and templates.jsonl
    VENV/bin/python make.py --show TEMPLATE CONVERSATION  the text that templates.jsonl has the hash of
    VENV/bin/python make.py --try 'TEMPLATE' ['CONTEXT']  the text of any template

cases.jsonl: a case a line, with `name`, `template` and, unless it is empty, `context`; this script writes the rest
anew: `text`, or `error` (for readers; only that there is one is compared), or `raised`, the message given to
raise_exception. To add a case add a line without them.

templates.jsonl: for each template that tools/get_templates.sh fetches and each of conversations.json, in its order,
the bytes of the text and the first 16 digits of its SHA-256, or `error`, or `raised: ` and the message.
"""
import argparse
import datetime
import hashlib
import json
import os
import pathlib
import re
import sys

os.environ["TZ"] = "UTC"
HERE = pathlib.Path(__file__).resolve().parent
MODELS = pathlib.Path(os.environ.get("ROCMFORGE_MODELS", HERE.parents[2] / "models"))
# The year, month, ... microsecond that strftime_now sees; tests/text/jinja.rs has the same.
NOW = (2026, 3, 5, 7, 8, 9, 12345)
PINS = {"jinja2": "3.1.6", "transformers": "5.24.0"}


def fixed_clock(module):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(*NOW)

    module.datetime = Clock


def outcome(compile_template, source, context):
    """{"text": ...}, {"raised": ...} or {"error": ...}"""
    from jinja2.exceptions import TemplateError

    try:
        text = compile_template(source).render(**context)
        text.encode()
    except Exception as error:  # whatever Python raises
        if type(error) is TemplateError:  # jinja2 itself raises only its subclasses
            return {"raised": str(error)}
        return {"error": re.sub(r"0x[0-9a-f]{6,}", "0x", f"{type(error).__name__}: {error}")[:160]}
    if re.search(r" at 0x[0-9a-f]{6,}", text):
        sys.exit(f"prints an address, which differs each time: {source}")
    return {"text": text}


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf8").split("\n") if line]


def write_lines(path, items):
    text = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    path.write_text(text, encoding="utf8", newline="\n")


def make_cases(compile_template):
    path = HERE / "cases.jsonl"
    cases = []
    for old in lines(path):
        case = {key: old[key] for key in ("name", "template", "context") if key in old}
        case.update(outcome(compile_template, case["template"], case.get("context", {})))
        cases.append(case)
    if len({case["name"] for case in cases}) != len(cases):
        sys.exit("a name is there twice")
    write_lines(path, cases)
    failing = sum("text" not in case for case in cases)
    print(f"{path.name}: {len(cases)} cases, {failing} of them errors")


def make_templates(compile_template, folder, conversations):
    rows = []
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes().decode()
        expected = []
        for conversation in conversations:
            result = outcome(compile_template, source, conversation["context"])
            if "text" in result:
                data = result["text"].encode()
                expected.append(f"{len(data)} {hashlib.sha256(data).hexdigest()[:16]}")
            elif "raised" in result:
                expected.append("raised: " + result["raised"])
            else:
                expected.append("error")
        rows.append({"template": path.stem, "expected": expected})
    if not rows:
        sys.exit(f"{folder} holds no templates: run tools/get_templates.sh")
    write_lines(HERE / "templates.jsonl", rows)
    total = sum(len(row["expected"]) for row in rows)
    failing = sum(not cell[0].isdigit() for row in rows for cell in row["expected"])
    print(f"templates.jsonl: {len(rows)} templates, {total} results, {failing} of them errors")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--templates", type=pathlib.Path, default=MODELS / "templates", metavar="DIR")
    parser.add_argument("--show", nargs=2, metavar=("TEMPLATE", "CONVERSATION"))
    parser.add_argument("--try", nargs="+", dest="try_", metavar=("TEMPLATE", "CONTEXT"))
    args = parser.parse_args()

    import jinja2
    import transformers
    from transformers.utils import chat_template_utils

    found = {"jinja2": jinja2.__version__, "transformers": transformers.__version__}
    if found != PINS or sys.version_info[:2] != (3, 11):
        sys.exit(f"the expected values come from Python 3.11 with {PINS}, not {sys.version.split()[0]} with {found}")
    fixed_clock(chat_template_utils)
    compile_template = chat_template_utils._compile_jinja_template
    conversations = json.loads((HERE / "conversations.json").read_text(encoding="utf8"))

    if args.show:
        source = (args.templates / f"{args.show[0]}.jinja").read_bytes().decode()
        [conversation] = [c for c in conversations if c["name"] == args.show[1]]
        result = outcome(compile_template, source, conversation["context"])
        sys.stdout.write(result.get("text") or json.dumps(result, ensure_ascii=False) + "\n")
    elif args.try_:
        context = json.loads(args.try_[1]) if len(args.try_) > 1 else {}
        print(json.dumps(outcome(compile_template, args.try_[0], context), ensure_ascii=False))
    else:
        make_cases(compile_template)
        make_templates(compile_template, args.templates, conversations)


main()
