"""Around a process's work: the stop on a signal, and pauses that grow, vary and are counted."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter

from shared.process import Backoff, Stop, instance_name


@pytest.fixture
def handlers_kept() -> Iterator[None]:
    """The test runner gets its own signal handlers back."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def failures(registry: CollectorRegistry, dependency: str) -> float | None:
    return registry.get_sample_value("failures_total", {"dependency": dependency})


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def counter(registry: CollectorRegistry) -> Counter:
    return Counter("failures", "Failures.", ["dependency"], registry=registry)


@pytest.mark.usefixtures("handlers_kept")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_stop(number: signal.Signals) -> None:
    stop = Stop.on_signals()
    assert not stop
    os.kill(os.getpid(), number)
    assert stop.wait(5)
    assert stop


def test_a_wait_ends_early_at_the_stop_and_says_so() -> None:
    stop = Stop()
    assert not stop.wait(0.01)
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert stop.wait(30)
    assert time.monotonic() - began < 10


def test_pauses_double_up_to_the_most_and_vary_below_their_ceiling(counter: Counter) -> None:
    ceilings = [0.5, 1, 2, 4, 5, 5]
    pauses = [
        [backoff.pause_seconds("s3") for _ in ceilings]
        for backoff in (Backoff(counter, first_seconds=0.5, max_seconds=5) for _ in range(200))
    ]
    for ceiling, column in zip(ceilings, zip(*pauses, strict=True), strict=True):
        assert ceiling / 4 <= min(column) < ceiling / 2
        assert ceiling * 3 / 4 < max(column) <= ceiling


def test_a_success_starts_the_pauses_over(counter: Counter) -> None:
    backoff = Backoff(counter, first_seconds=0.1, max_seconds=100)
    for _ in range(2_000):  # no number of failures overflows
        assert backoff.pause_seconds("s3") <= 100
    assert backoff.pause_seconds("s3") >= 25
    backoff.reset()
    assert backoff.pause_seconds("s3") <= 0.1


def test_every_failure_is_counted_under_its_dependency(counter: Counter, registry: CollectorRegistry) -> None:
    backoff = Backoff(counter, first_seconds=0.001, max_seconds=0.001)
    stop = Stop()
    assert not backoff.wait(stop, "redis")
    stop.set()
    assert backoff.wait(stop, "redis")
    backoff.pause_seconds("postgresql")
    assert failures(registry, "redis") == 2
    assert failures(registry, "postgresql") == 1


def test_a_wait_to_try_again_does_not_hold_up_the_stop(counter: Counter) -> None:
    stop = Stop()
    threading.Timer(0.05, stop.set).start()
    began = time.monotonic()
    assert Backoff(counter, first_seconds=60, max_seconds=60).wait(stop, "s3")
    assert time.monotonic() - began < 10


def test_a_process_is_named_by_host_and_pid() -> None:
    assert instance_name() == f"{socket.gethostname()}:{os.getpid()}"
