"""Every process as its operator sees it: what it takes of the machine, how it starts, how it ends."""

import json
import os
import signal
import socket
import time
from contextlib import suppress

import pytest
import urllib3

from deploy.local.api import wait_until
from tests.support.fleet import Fleet, Process

WORKERS = ("ingestor", "rollup_worker", "export_worker")
STANDARD = (
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
    "process_open_fds",
    "process_max_fds",
)


def series(process: Process, name: str) -> dict[str, float]:
    """Return a metric's values by its labels as they are written."""
    text = process.get("/metrics").data.decode()
    samples = [
        line.rpartition(" ") for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))
    ]
    return {labels.removeprefix(name): float(value) for labels, _, value in samples}


def test_all_four_export_the_standard_process_series(fleet: Fleet) -> None:
    gateway, *workers = fleet.start_ready("gateway", *WORKERS, WEB_CONCURRENCY="2")
    for worker in workers:
        for name in STANDARD:
            [(labels, value)] = series(worker, name).items()
            assert (labels, value > 0) == ("", True), f"{worker.name} {name}"
    for name in STANDARD:
        values = series(gateway, name)
        assert len(values) == 3, f"the arbiter and two workers: {name} {values}"
        assert f'{{pid="{gateway.popen.pid}"}}' in values
        assert min(values.values()) > 0


def test_start_times_change_with_a_restart_alone(fleet: Fleet) -> None:
    [gateway] = fleet.start_ready("gateway", WEB_CONCURRENCY="2")
    first = series(gateway, "process_start_time_seconds")
    for _ in range(20):  # whichever worker answers
        assert series(gateway, "process_start_time_seconds") == first
    pids = {int(labels.split('"')[1]) for labels in first} - {gateway.popen.pid}
    victim = min(pids)
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        with suppress(urllib3.exceptions.HTTPError):  # a connection to the worker that is gone
            return len(series(gateway, "process_start_time_seconds").keys() - first.keys()) == 1
        return False

    wait_until(replaced, seconds=30, what="a worker in its place")
    assert f'{{pid="{victim}"}}' not in series(gateway, "process_start_time_seconds")


@pytest.mark.parametrize("name", ["gateway", *WORKERS])
def test_a_second_signal_changes_nothing(fleet: Fleet, name: str) -> None:
    [process] = fleet.start_ready(name)
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        if process.popen.poll() is None:
            process.send(number)
            time.sleep(0.02)
    assert process.popen.wait(timeout=40) == 0, process.log_tail()
    assert "Traceback" not in process.log.read_text()


@pytest.mark.parametrize("name", ["gateway", *WORKERS])
def test_a_port_in_use_ends_a_process_with_code_1_and_a_sentence(fleet: Fleet, name: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        process = fleet.start(name, port=port)
        assert process.popen.wait(timeout=40) == 1
    output = process.log.read_text()
    assert str(port) in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["gateway", *WORKERS])
def test_the_start_is_logged_with_settings_as_they_are_written(fleet: Fleet, name: str) -> None:
    [process] = fleet.start_ready(
        name, FRESHNESS_CACHE_TTL="1500ms", DEDUPE_WINDOW="240h", EXPORT_LEASE="45s"
    )
    starts = [json.loads(line) for line in process.log.read_text().splitlines() if '"starting"' in line]
    [settings] = [line["settings"] for line in starts]
    written = {"FRESHNESS_CACHE_TTL": "1500ms", "DEDUPE_WINDOW": "240h", "EXPORT_LEASE": "45s"}
    assert {key: settings[key] for key in written if key in settings}.items() <= written.items()
    assert "***@" in settings["DATABASE_URL"]
