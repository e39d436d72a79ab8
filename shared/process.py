"""What every process does around its work: run its parts, stop on a signal, back off, name itself.

One rule holds for all of them: a server that is away is waited for, and any other error in any part (a loop,
the upkeep, the gauges, a listener) ends the process with exit code 1 and the reason as its last log line. A
part that is dead in a process that looks alive would be noticed by nobody.
"""

import atexit
import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType

import structlog
from prometheus_client import Counter

from shared.errors import DependencyError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("process")

# How soon a part that ended is noticed, and how long the others may take to end after it.
_LOOK_SECONDS = 0.2
_LAST_WORDS_SECONDS = 3


class Stop:
    """Set by SIGTERM or SIGINT: finish what is begun, begin nothing new."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @classmethod
    def on_signals(cls) -> "Stop":
        """Return a Stop that SIGTERM and SIGINT set. Call it in the main thread."""
        stop = cls()

        def handle(_number: int, _frame: FrameType | None) -> None:
            stop.set()

        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            signal.signal(number, handle)

        # While it ends, Python takes handlers away: a second signal would kill what has stopped well.
        @atexit.register
        def ignore() -> None:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)

        return stop

    def set(self) -> None:
        """Ask for the stop."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep until the stop or for this long; return whether to stop."""
        return self._event.wait(seconds)


class Backoff:
    """Pauses that double from first_seconds to max_seconds, with full jitter, counted.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, counter: Counter, *, first_seconds: float = 0.2, max_seconds: float = 10) -> None:
        self._counter = counter
        self._first_seconds = first_seconds
        self._max_seconds = max_seconds
        self._failures = 0

    def wait(self, stop: Stop, dependency: str) -> bool:
        """Count a failure of the dependency and pause; return whether to stop."""
        return stop.wait(self.pause_seconds(dependency))

    def pause_seconds(self, dependency: str) -> float:
        """Count a failure of the dependency and return how long to pause."""
        self._counter.labels(dependency=dependency).inc()
        ceiling = min(self._max_seconds, self._first_seconds * 2 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(ceiling / 4, ceiling)  # noqa: S311  spreads load, guards nothing

    def reset(self) -> None:
        """Forget the failures after a success."""
        self._failures = 0


def repeat(work: Callable[[], None], every_seconds: float, stop: Stop, dependency_errors: Counter) -> None:
    """Do the work at intervals until the stop; back off while a server is away. Any other error passes on."""
    backoff = Backoff(dependency_errors)
    while not stop:
        try:
            work()
        except DependencyError as error:
            name = threading.current_thread().name
            _log.warning(f"{name} failed, trying again", dependency=error.dependency, error=str(error))
            backoff.wait(stop, error.dependency)
            continue
        backoff.reset()
        stop.wait(every_seconds)


class PartFailed(Exception):
    """A part of the process ended by itself; the reason is its cause."""

    def __init__(self, part: str) -> None:
        self.part = part
        super().__init__(f"{part} ended by itself")


class Parts:
    """The threads of one process, which live and end together. For the main thread."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._threads: list[threading.Thread] = []
        self._failures: list[tuple[str, BaseException | None]] = []

    def start(self, name: str, work: Callable[[], None], *, until_exit: bool = False) -> threading.Thread:
        """Run work in a thread of its own. It ends at the stop, or with the process (until_exit)."""
        # A daemon: a call that hangs must not keep the process from ending.
        thread = threading.Thread(target=self._run, args=(name, work), name=name, daemon=True)
        if not until_exit:
            self._threads.append(thread)
        thread.start()
        return thread

    def _run(self, name: str, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  the main thread raises it
            self._failures.append((name, error))
        else:
            if not self._stop:
                self._failures.append((name, None))

    def wait(self) -> None:
        """Return at the stop. When a part ends by itself, the stop is set for all."""
        while not self._stop.wait(_LOOK_SECONDS):
            if self._failures:
                self._stop.set()

    def join(self) -> None:
        """Wait for the parts to finish what they began; after a failure not for long."""
        join(self._threads, _LAST_WORDS_SECONDS if self._failures else None)

    def check(self) -> None:
        """Raise PartFailed when a part ended by itself."""
        if self._failures:
            part, cause = self._failures[0]
            raise PartFailed(part) from cause


def join(threads: list[threading.Thread], seconds: float | None = None) -> None:
    """Wait for threads to end, at most this long together."""
    deadline = None if seconds is None else time.monotonic() + seconds
    for thread in threads:
        thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))


def exit_code(run: Callable[[], None]) -> int:
    """Run a process and return its exit code, with the reason as the last line of the log: 1 on any error."""
    try:
        run()
    except PartFailed as failed:
        _say_last(failed.__cause__, part=failed.part)
    except Exception as error:  # noqa: BLE001  whatever it is, it ends the process and is logged
        _say_last(error)
    else:
        _log.info("stopped")
        return 0
    return 1


def _say_last(error: BaseException | None, **fields: str) -> None:
    """Log why the process ends. A thread that is still running must not write behind it."""
    logging.disable(logging.ERROR)
    _log.critical("ended by an error", **fields, reason=_described(error), exc_info=error)
    logging.disable()


def _described(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}" if error else "it ended without an error"


def instance_name() -> str:
    """Return host:pid, which names this process in the database and in logs."""
    return f"{socket.gethostname()}:{os.getpid()}"
