"""Runs the servers and the fleet on this machine.

python -m deploy.local run     in the foreground, until Ctrl-C
python -m deploy.local up      in the background; the settings are in .stack/env
python -m deploy.local down    stop what up started
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime

from deploy.local.launcher import ENV_FILE, STATE, LocalFleet
from deploy.local.machine import StackError
from deploy.local.stack import ROOT

_PID_FILE = STATE / "pid"
_READY_FILE = STATE / "ready"
_UP_LOG = STATE / "up.log"


def say(message: str) -> None:
    """Print a line of progress with the time."""
    sys.stdout.write(f"{datetime.now(UTC):%H:%M:%S}  {message}\n")
    sys.stdout.flush()


def run() -> int:
    """Run until a signal or until a process ends."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    STATE.mkdir(exist_ok=True)
    _READY_FILE.unlink(missing_ok=True)
    fleet = LocalFleet(say)
    try:
        _PID_FILE.write_text(str(os.getpid()))
        fleet.start()
        for name, url in fleet.urls.items():
            say(f"{name}={url}")
        _READY_FILE.touch()
        fleet.wait()
    except KeyboardInterrupt:
        say("stopping")
        return 0
    finally:
        fleet.stop()
        _READY_FILE.unlink(missing_ok=True)
        _PID_FILE.unlink(missing_ok=True)
    return 1


def _running_pid() -> int | None:
    with suppress(OSError, ValueError):
        pid = int(_PID_FILE.read_text())
        os.kill(pid, 0)
        return pid
    return None


def up() -> int:
    """Start `run` in the background and wait until it is ready."""
    if _running_pid() is not None:
        say(f"already up; settings in {ENV_FILE.relative_to(ROOT)}, `make down` stops it")
        return 0
    STATE.mkdir(exist_ok=True)
    _READY_FILE.unlink(missing_ok=True)
    with _UP_LOG.open("w") as log:
        background = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run"],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    shown = 0
    while background.poll() is None:
        ready = _READY_FILE.exists()
        text = _UP_LOG.read_text()
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if ready:
            say(f"up. Settings: {ENV_FILE.relative_to(ROOT)}, logs: .stack/fleet.log, stop: make down")
            return 0
        time.sleep(0.1)
    sys.stderr.write(_UP_LOG.read_text()[shown:])
    return 1


def down() -> int:
    """Stop what `up` started, and wait until it is gone."""
    pid = _running_pid()
    if pid is None:
        say("nothing is up")
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while _running_pid() is not None:
        if time.monotonic() > deadline:
            sys.stderr.write(f"process {pid} did not stop within 60 s; see .stack/up.log\n")
            return 1
        time.sleep(0.1)
    say("down")
    return 0


def main() -> int:
    """Run the command named by the first argument; 2 when there is none of that name."""
    commands = {"run": run, "up": up, "down": down}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        sys.stderr.write(__doc__ or "")
        return 2
    try:
        return commands[sys.argv[1]]()
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
