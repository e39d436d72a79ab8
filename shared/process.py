"""What every process does around its work: stop on a signal, back off, tell who it is."""

import atexit
import os
import random
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType

import structlog
from prometheus_client import Counter

from shared.errors import AnalyticsError, DependencyError

_log: structlog.stdlib.BoundLogger = structlog.get_logger("process")

# Between tries at work that failed for a fault of ours.
_FAULT_PAUSE_SECONDS = 5


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
    """Pauses that double from first_seconds to most_seconds, with full jitter, counted.

    Source: Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, counter: Counter, *, first_seconds: float = 0.2, most_seconds: float = 10) -> None:
        self._counter = counter
        self._first_seconds = first_seconds
        self._most_seconds = most_seconds
        self._failures = 0

    def wait(self, stop: Stop, dependency: str) -> bool:
        """Count a failure of the dependency and pause; return whether to stop."""
        return stop.wait(self.pause_seconds(dependency))

    def pause_seconds(self, dependency: str) -> float:
        """Count a failure of the dependency and return how long to pause."""
        self._counter.labels(dependency=dependency).inc()
        ceiling = min(self._most_seconds, self._first_seconds * 2 ** min(self._failures, 30))
        self._failures += 1
        return random.uniform(ceiling / 4, ceiling)  # noqa: S311  spreads load, guards nothing

    def reset(self) -> None:
        """Forget the failures after a success."""
        self._failures = 0


def repeat(work: Callable[[], None], every_seconds: float, stop: Stop, dependency_errors: Counter) -> None:
    """Do the work at intervals until the stop; back off while a server is away.

    A fault of ours or of the data is logged and tried again: going on keeps the other threads useful, and
    what the work leaves undone raises the alarm.
    """
    backoff = Backoff(dependency_errors)
    while not stop:
        try:
            work()
        except DependencyError as error:
            name = threading.current_thread().name
            _log.warning(f"{name} failed, trying again", dependency=error.dependency, error=str(error))
            backoff.wait(stop, error.dependency)
            continue
        except AnalyticsError as error:
            _log.exception("the work failed, trying again", error=str(error))
            stop.wait(_FAULT_PAUSE_SECONDS)
            continue
        backoff.reset()
        stop.wait(every_seconds)


def instance_name() -> str:
    """Return host:pid, which names this process in the database and in logs."""
    return f"{socket.gethostname()}:{os.getpid()}"
