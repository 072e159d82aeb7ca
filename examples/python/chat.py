#!/usr/bin/env python3
"""Chat with a model from a GGUF file. Text goes to stdout as it comes, all else to stderr. Ctrl-C stops an answer; where
a question is awaited it ends the program.

    chat.py [-n TOKENS] [--temp T] [--seed N] [--ctx TOKENS] MODEL.gguf
"""

import argparse
import random
import signal
import sys

import rocmforge


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def answer(model: rocmforge.Model, context: rocmforge.Context, sampler: rocmforge.Sampler, history: list, max_tokens: int) -> None:
    """Prints the answer to a conversation and adds it; where that fails, takes the question back."""
    while True:
        prompt = model.chat(history)
        with context.generate(prompt, sampler, max_tokens) as reply:
            try:
                for text in reply:
                    print(text, end="", flush=True)
            except KeyboardInterrupt:
                reply.close()
        full = reply.stop == rocmforge.STOP_CACHE_FULL
        if not full or reply.tokens:
            break
        if len(history) == 1:
            raise ValueError("the message is longer than the context")
        # The older half of the exchanges makes room for more than one answer.
        del history[: (len(history) + 1) // 4 * 2]
        say("[the context is full: older messages are forgotten]")
    print(flush=True)
    if reply.stop == rocmforge.STOP_CANCELLED:
        say("[stopped]")
    elif full:
        say("[the context is full: the answer is cut]")
    history.append({"role": "assistant", "content": reply.text})


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat with a model from a GGUF file.")
    parser.add_argument("-n", type=int, default=0, metavar="TOKENS", help="of an answer at most; 0, the default: no limit")
    parser.add_argument("--temp", type=float, default=0.8, metavar="T", help="0: always the most likely token; default 0.8")
    parser.add_argument("--seed", type=int, default=random.getrandbits(64), metavar="N", help="for the same answers again")
    parser.add_argument("--ctx", type=int, default=0, metavar="TOKENS",
                        help="of context; 0, the default: what the model was trained on, at most 4096")
    parser.add_argument("model", metavar="MODEL.gguf")
    args = parser.parse_args()

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ends with who reads it
    model = rocmforge.Model(rocmforge.Backend(), args.model)
    context = rocmforge.Context(model, args.ctx)
    sampler = rocmforge.Sampler(args.temp, args.seed)
    history: list = []
    lines = open(sys.stdin.fileno(), encoding="utf-8", errors="replace", closefd=False)
    terminal = lines.isatty()
    while True:
        if terminal:
            print("> ", end="", file=sys.stderr, flush=True)
        line = lines.readline()
        if not line:
            return
        if not line.strip():
            continue
        history.append({"role": "user", "content": line.rstrip("\r\n")})
        try:
            answer(model, context, sampler, history, args.n)
        except (rocmforge.Error, ValueError) as error:
            say(f"chat: {error}")
            history.pop()


if __name__ == "__main__":
    try:
        main()
    except rocmforge.Error as error:
        sys.exit(f"chat: {error}")
    except KeyboardInterrupt:
        # Ends as by the signal, for the shell to see.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
