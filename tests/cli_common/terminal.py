"""Runs a command in a terminal of its own and talks with it.

Standard input is JSON: "argv"; "steps", each a text to wait for and what to type then; "stdout", a file for standard
output in place of the terminal. Typing "signal:NAME" sends that signal, "bytes:HEX" those bytes. Standard output is JSON: "text", all that the
terminal was sent; "status", the exit code; "is_cooked", whether the terminal was left as it was found.
"""

import fcntl, json, os, pty, select, signal, struct, sys, termios, time

PATIENCE = 120  # seconds without the text that is waited for

spec = json.load(sys.stdin)
pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(TERM="xterm")
    if spec.get("stdout"):
        os.dup2(os.open(spec["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
    os.execv(spec["argv"][0], spec["argv"])
fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 50, 200, 0, 0))
before = termios.tcgetattr(terminal)

seen = b""


def read(deadline):
    """More of what the command shows; False at its end."""
    global seen
    while not select.select([terminal], [], [], 0.2)[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            sys.exit("waited in vain; the terminal shows:\n" + repr(seen))
    try:
        data = os.read(terminal, 65536)
    except OSError:  # the last holder of the other end is gone
        data = b""
    seen += data
    return bool(data)


at = 0
for expected, typed in spec["steps"]:
    deadline = time.monotonic() + PATIENCE
    while seen.find(expected.encode(), at) < 0:
        if not read(deadline):
            sys.exit("ended before %r; the terminal shows:\n%r" % (expected, seen))
    at = seen.find(expected.encode(), at) + len(expected.encode())
    if typed.startswith("signal:"):
        os.kill(pid, getattr(signal, typed.removeprefix("signal:")))
    elif typed.startswith("bytes:"):
        os.write(terminal, bytes.fromhex(typed.removeprefix("bytes:")))
    else:
        os.write(terminal, typed.encode())

deadline = time.monotonic() + PATIENCE
is_cooked = False
while True:
    # the mode that the command leaves is gone with its end of the terminal
    try:
        is_cooked = termios.tcgetattr(terminal)[3] == before[3]
    except termios.error:
        pass
    if not read(deadline):
        break
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
json.dump({"text": seen.decode("utf-8", "replace"), "status": status, "is_cooked": is_cooked}, sys.stdout)
