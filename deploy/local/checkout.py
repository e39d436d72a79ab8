"""One stack per checkout: a lock that is held for as long as the stack lives, and who holds it.

The launcher locks `.stack/lock` with flock, and each guard of a server inherits the lock. So the kernel
keeps it until the launcher and every server have ended, however that happens, and no file that is left
over can be mistaken for a running stack. The file names who took the lock: command, process id, start
time. A process is signalled only when its start time is the recorded one. Standard library only, so that
`make down` works without `.venv`.
"""

import fcntl
import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.machine import StackError

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".stack"
_LOCK_FILE = STATE / "lock"

_MAX_STOP_SECONDS = 90
"""The processes may take 30 s to stop, then the servers 10 s."""


@dataclass(frozen=True)
class Holder:
    """Who took the lock of a checkout."""

    command: str
    pid: int
    birth: str
    """When the process started, as the system writes it: it distinguishes two processes of one number."""
    since: str
    ready: bool = False
    """Whether every process of the stack is ready."""

    def __str__(self) -> str:
        return f"`{self.command}` (process {self.pid}, since {self.since})"

    @property
    def alive(self) -> bool:
        """Return whether this very process still runs."""
        return bool(self.birth) and _birth(self.pid) == self.birth

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to this very process, or nothing when it has ended.

        Raises StackError when it belongs to somebody else.
        """
        try:
            if hasattr(os, "pidfd_open"):
                process = os.pidfd_open(self.pid)
                try:
                    # The number cannot pass to another process between these two lines.
                    if self.alive:
                        signal.pidfd_send_signal(process, number)
                finally:
                    os.close(process)
            elif self.alive:
                os.kill(self.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            raise StackError(f"{self} belongs to another user: stop it as that user, or as root") from None


class Lock:
    """The lock of this checkout, held by this process and by those that inherit its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._since = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        os.set_inheritable(descriptor, True)

    def sign(self, command: str, *, ready: bool = False) -> None:
        """Write into the file that this process holds the lock."""
        pid = os.getpid()
        holder = Holder(command, pid, _birth(pid), self._since, ready)
        os.truncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(asdict(holder)).encode(), 0)

    def close(self) -> None:
        """Leave the lock to the processes that inherited it; free it when there are none."""
        os.close(self.descriptor)


def acquire(command: str) -> Lock:
    """Take the lock for a command. Raises StackError that names who holds it and what to do."""
    STATE.mkdir(mode=0o755, exist_ok=True)
    lock = _try_lock()
    deadline = time.monotonic() + _MAX_STOP_SECONDS
    # Nobody signed: a launcher was killed and its servers are stopping, or another one has just begun.
    while lock is None and _signer() is None and time.monotonic() < deadline:
        time.sleep(0.1)
        lock = _try_lock()
    if lock is None:
        raise StackError(
            f"{_signer() or 'A process that cannot be seen from here'} already runs in this checkout.\n"
            "`make down` stops it; then try again. Another checkout can run beside it."
        )
    lock.sign(command)
    return lock


def running() -> Holder | None:
    """Return who runs a stack in this checkout, or None."""
    return _signer() if _is_locked() else None


def stop() -> str:
    """Stop the stack of this checkout and wait until it is gone; return what was done, as a sentence.

    Raises StackError when it does not end, or belongs to somebody else.
    """
    if not _is_locked():
        return "nothing is up"
    holder, asked = None, False
    deadline = time.monotonic() + _MAX_STOP_SECONDS
    while _is_locked():
        holder = _signer() or holder
        if holder is not None and not asked:
            holder.signal(signal.SIGTERM)
            asked = True
        if time.monotonic() > deadline:
            raise StackError(
                f"{holder or 'a process that cannot be seen from here'} still holds .stack/lock"
                f" after {_MAX_STOP_SECONDS} s; see .stack/up.log"
            )
        time.sleep(0.1)
    return f"stopped {holder}" if holder else "an earlier stack was still stopping; now it is gone"


def _try_lock() -> Lock | None:
    while True:
        descriptor = os.open(_LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), _LOCK_FILE.stat()):
                return Lock(descriptor)
        os.close(descriptor)  # `make clean` removed the file in between


def _is_locked() -> bool:
    try:
        with _LOCK_FILE.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    except FileNotFoundError:
        return False
    return False


def _signer() -> Holder | None:
    """Return the process that signed the file, if it still runs."""
    with suppress(OSError, ValueError, TypeError):
        holder = Holder(**json.loads(_LOCK_FILE.read_text(encoding="utf-8")))
        if holder.alive:
            return holder
    return None


def _birth(pid: int) -> str:
    """Return when a process started, with the boot it belongs to; empty when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except ProcessLookupError:
        return ""
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        asked = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    state, ticks = fields[0], fields[19]
    if state in "ZX":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{ticks} ticks after boot {boot}"
