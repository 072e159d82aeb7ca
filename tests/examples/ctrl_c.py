#!/usr/bin/env python3
"""Ctrl-C stops an answer of a chat, which then answers the next question.     ctrl_c.py CHAT [ARGUMENTS...]

The chat is run twice: behind pipes, with SIGINT sent to it, and in a terminal, where the key is pressed; there Ctrl-C
also ends the chat while it awaits a question. The arguments must make it answer the first question at length, and bound
the second answer.
"""

import os
import pty
import select
import signal
import subprocess
import sys
import time

PATIENCE = 120  # seconds without what is awaited: it hangs


def fail(message: str) -> None:
    sys.exit(f"ctrl_c.py: {' '.join(sys.argv[1:])}: {message}")


class Stream:
    """What comes out of a file, as far as it was read."""

    def __init__(self, file: int) -> None:
        self.file, self.text = file, b""

    def await_(self, what: str, found) -> None:
        """Reads until `found(text)`."""
        deadline = time.monotonic() + PATIENCE
        while not found(self.text):
            ready, _, _ = select.select([self.file], [], [], max(deadline - time.monotonic(), 0))
            if not ready:
                fail(f"no {what} within {PATIENCE} s; so far {self.text!r}")
            try:
                more = os.read(self.file, 4096)
            except OSError:  # a terminal whose program has ended
                more = b""
            if not more:
                fail(f"it ended without {what}: {self.text!r}")
            self.text += more

    def drain(self) -> None:
        """Reads what is there."""
        while select.select([self.file], [], [], 0)[0]:
            self.text += os.read(self.file, 4096)


LONG, SHORT = b"Tell me a long story about a lighthouse.", b"What is the capital of France?"


def restore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it


def behind_pipes() -> None:
    chat = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            preexec_fn=restore_interrupts)
    out, err = Stream(chat.stdout.fileno()), Stream(chat.stderr.fileno())
    chat.stdin.write(LONG + b"\n")
    chat.stdin.flush()
    out.await_("answer", lambda text: len(text) >= 20)
    chat.send_signal(signal.SIGINT)
    err.await_("sign that it stopped", lambda text: text == b"[stopped]\n")
    out.drain()
    if not out.text.endswith(b"\n"):
        fail(f"the stopped answer's line has no end: {out.text!r}")
    second, errors = chat.communicate(SHORT + b"\n", timeout=PATIENCE)
    if chat.returncode != 0 or errors or not second.strip() or not second.endswith(b"\n"):
        fail(f"exit status {chat.returncode}, {errors!r}; the second answer: {second!r}")


def in_a_terminal() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        restore_interrupts()
        os.execvp(sys.argv[1], sys.argv[1:])
    screen = Stream(terminal)

    def ask(question: bytes) -> None:
        screen.await_("prompt", lambda text: text.endswith(b"> "))
        screen.text = b""
        os.write(terminal, question + b"\n")
        screen.await_("answer", lambda text: len(text) >= len(question + b"\r\n") + 20)

    ask(LONG)
    os.write(terminal, b"\x03")
    screen.await_("sign that it stopped", lambda text: b"[stopped]\r\n" in text)
    ask(SHORT)
    screen.await_("prompt", lambda text: text.endswith(b"\n> "))
    os.write(terminal, b"\x03")
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            fail("Ctrl-C where a question is awaited does not end it")
        time.sleep(0.01)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGINT:
        fail(f"Ctrl-C where a question is awaited: wait status {status}, {screen.text!r}")


behind_pipes()
in_a_terminal()
