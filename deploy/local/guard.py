"""Runs one server and ends it, with all it started, when the launcher goes away.

The launcher holds the other end of this process's standard input. When it closes that end, or
dies of anything including SIGKILL, reading here ends, and the server's process group is stopped:
first with the given signal, then, past the grace period, with SIGKILL. If this guard itself is
killed, the kernel kills the server (PR_SET_PDEATHSIG).

Usage: guard.py SIGNAL GRACE_SECONDS USER_ID COMMAND...   (USER_ID -1: stay who you are)
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    """Run the command until it ends or the launcher does; return its exit code."""
    stop_signal, grace_seconds, user_id = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    # A Ctrl-C in the terminal reaches the whole group; the launcher decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    identity: dict[str, Any] = {} if user_id < 0 else {"user": user_id, "group": user_id, "extra_groups": []}
    server = subprocess.Popen(
        sys.argv[4:],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509  one thread, and only prctl after the fork
        umask=0o077,
        **identity,
    )
    ended = threading.Event()
    # Written to by the watcher, so that the wait below also ends when the server does.
    read_end, write_end = os.pipe()

    def watch() -> None:
        server.wait()
        ended.set()
        os.write(write_end, b"x")

    threading.Thread(target=watch, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os.write(write_end, b"x"))
    with selectors.DefaultSelector() as waiting:
        waiting.register(sys.stdin.fileno(), selectors.EVENT_READ)
        waiting.register(read_end, selectors.EVENT_READ)
        waiting.select()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, stop_signal)
    ended.wait(grace_seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    return server.returncode


if __name__ == "__main__":
    raise SystemExit(main())
