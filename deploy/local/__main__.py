"""Runs the servers and the fleet on this machine.

python -m deploy.local run     in the foreground, until Ctrl-C
python -m deploy.local up      in the background; the settings are in .stack/env
python -m deploy.local down    stop what runs in this checkout: up, run or the demo
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from deploy.local import checkout
from deploy.local.checkout import ROOT, STATE
from deploy.local.machine import StackError, explain

_UP_LOG = STATE / "up.log"


def run(lock: checkout.Lock | None = None) -> int:
    """Run until a signal or until a process ends."""
    from deploy.local.launcher import LocalFleet, run_fleet, write_line  # noqa: PLC0415  needs .venv, down does not

    def wait(fleet: LocalFleet) -> int:
        for name, url in fleet.urls.items():
            write_line(f"{name}={url}")
        write_line(f"CONSOLE_URL={fleet.console_url}")
        try:
            fleet.wait()
        except KeyboardInterrupt:
            return 0

    return run_fleet("make up" if lock else "python -m deploy.local run", wait, lock)


def up() -> int:
    """Start `run` in the background and wait until it is ready."""
    holder = checkout.running()
    if holder is not None and holder.command == "make up" and holder.ready:
        sys.stdout.write(f"already up: {holder}. Settings: .stack/env, logs: .stack/logs, stop: make down\n")
        return 0
    lock = checkout.acquire("make up")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _UP_LOG.open("w", encoding="utf-8") as log:
        background = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run", str(lock.descriptor)],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            pass_fds=[lock.descriptor],
        )  # fmt: skip
    lock.close()
    try:
        return _follow(background)
    except KeyboardInterrupt:
        background.terminate()
        background.wait()
        return 130


def _follow(background: subprocess.Popen[bytes]) -> int:
    """Print the output of the process in the background until it is ready or has ended."""
    shown = 0
    while True:
        ended = background.poll() is not None
        holder = checkout.running()
        ready = holder is not None and holder.pid == background.pid and holder.ready
        text = _UP_LOG.read_text(encoding="utf-8", errors="replace")
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if ended:
            return 1
        if ready:
            sys.stdout.write("up. Settings: .stack/env, logs: .stack/logs, stop: make down\n")
            return 0
        time.sleep(0.1)


def down() -> int:
    """Stop what runs in this checkout, and wait until it is gone."""
    sys.stdout.write(f"{checkout.stop()}\n")
    return 0


def main(arguments: Sequence[str]) -> int:
    """Run the command named by the first argument; 2 when there is none of that name."""
    try:
        match arguments:
            case ["run"]:
                return run()
            case ["run", descriptor]:
                return run(checkout.Lock(int(descriptor)))
            case ["up"]:
                return up()
            case ["down"]:
                return down()
    except (StackError, OSError) as error:
        sys.stderr.write(f"{explain(error)}\n")
        return 1
    sys.stderr.write(__doc__ or "")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
