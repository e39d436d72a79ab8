"""What the tests of the ingestor share: its queues, its processes, and what came of their work."""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pika
from psycopg2.extensions import connection

from deploy.local.api import wait_until
from deploy.local.checkout import ROOT
from deploy.local.observer import Observer
from deploy.local.traffic import Event, Router, encode
from shared.rabbitmq.properties import persistent
from shared.rabbitmq.topology import Topology, declare
from tests.support.fleet import Fleet, Process
from tests.support.places import TestBroker, TestDatabase

NOW = datetime.now(UTC)


class Ingestion:
    """A test's queues, declared, and the ingestors it starts."""

    def __init__(
        self, environ: dict[str, str], database: TestDatabase, broker: TestBroker, folder: Path
    ) -> None:
        self.broker = broker
        self.topology = Topology(
            broker.exchange, broker.queue, broker.dead_letter_exchange, broker.dead_letter_queue
        )
        self.fleet = Fleet(environ, folder)
        self.observer = Observer(database.owner_url, broker.url, broker.queue, broker.dead_letter_queue)
        self._connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        self.channel = self._connection.channel()
        declare(self.channel, self.topology)

    def close(self) -> None:
        """End the processes and close the connections."""
        self.fleet.close()
        self.observer.close()
        if self._connection.is_open:
            self._connection.close()

    def start(self, **environ: str) -> Process:
        """Start an ingestor and wait until it is ready."""
        [process] = self.fleet.start_ready("ingestor", **environ)
        return process

    def publish(self, bodies: Iterable[bytes], headers: dict[str, Any] | None = None) -> None:
        """Publish messages; returns when the broker has taken them."""
        for body in bodies:
            self.channel.basic_publish(self.topology.exchange, "usage", body, persistent(headers=headers))
        self.channel.exchange_declare(self.topology.exchange, passive=True)

    def waiting(self, queue: str | None = None) -> int:
        """Return how many messages are ready in a queue, that of events by default."""
        declared = self.channel.queue_declare(queue or self.topology.queue, passive=True)
        count: int = declared.method.message_count
        return count

    def wait_received(self, events: int, seconds: float = 40) -> None:
        """Wait until so many valid events were committed, duplicates included."""
        wait_until(
            lambda: self.observer.ingestion()["received"] >= events,
            seconds=seconds,
            what=lambda: f"{events} received; last seen {self.observer.ingestion()}",
        )

    def wait_dead_letters(self, count: int, seconds: float = 20) -> None:
        """Wait until there are so many dead letters."""
        wait_until(
            lambda: self.observer.dead_letter_count() == count, seconds=seconds, what=f"{count} dead letters"
        )

    def stored(self) -> int:
        """Return how many rows the events table has."""
        [(count,)] = self.observer.rows("SELECT count(*) FROM analytics.usage_events")
        return int(count)

    def assert_all_acknowledged(self, *processes: Process) -> None:
        """Stop the processes: each exits with 0, and nothing comes back to the queue."""
        for process in processes:
            assert process.stop() == 0, process.log_tail()
        assert self.waiting() == 0


def replay(
    broker: TestBroker, *options: str, max_memory_bytes: int | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    """Run the command that puts dead letters back; max_memory_bytes: a limit on what it maps."""

    def limit() -> None:
        if max_memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))

    return subprocess.run(
        [sys.executable, "-m", "ingestor", "replay-dead-letters", *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **broker.settings, **environ},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def hold_key(other: connection, event: Event) -> None:
    """Claim an event's key in a transaction that is left open."""
    with other.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.event_keys VALUES (%s, %s, 0, now())", (event["eventId"], event["orgId"])
        )


def wait_until_waiting(owner: connection, count: int = 1) -> None:
    """Wait until so many batches wait for a lock."""

    def waiting() -> bool:
        with owner.cursor() as cur:
            cur.execute(
                "SELECT FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'ingestor' AND wait_event_type = 'Lock'"
            )
            return cur.rowcount == count

    wait_until(waiting, seconds=10, what="batches to wait", every_seconds=0.02)


def metric(process: Process, name: str, **labels: str) -> float:
    """Return a sample of a process's /metrics. Raises AssertionError where there is none."""
    text = process.get("/metrics").data.decode()
    for line in text.splitlines():
        found = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
        if found and dict(re.findall(r'(\w+)="([^"]*)"', found[1] or "")) == labels:
            return float(found[2])
    raise AssertionError(f"no {name} with {labels} in:\n{text}")


def results(process: Process) -> tuple[int, int, int]:
    """Return what a process counted: accepted, duplicate, invalid."""
    accepted, duplicate, invalid = (
        int(metric(process, "analytics_ingestion_events_total", result=result))
        for result in ("accepted", "duplicate", "invalid")
    )
    return accepted, duplicate, invalid


def encoded_events(count: int, seed: int = 1) -> list[bytes]:
    """Return messages of one event each, of the hour before NOW: the same ones for a seed."""
    router = Router(seed=seed, start=NOW - timedelta(hours=1), end=NOW)
    return [encode(event) for event in router.events(count)]


def memory_kb(process: Process, name: str) -> int:
    """Return a figure of a process's memory: VmRSS now, VmHWM at its peak."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{process.popen.pid}/status").read_text())
    assert found is not None
    return int(found[1])


def assert_never_lost_its_broker(process: Process) -> None:
    """The process still runs, as ready as it began, and its connections have not been lost once."""
    assert process.popen.poll() is None, process.log_tail()
    assert process.ready(), process.get("/readyz").data
    assert metric(process, "analytics_dependency_errors_total", dependency="rabbitmq") == 0, (
        process.log_tail()
    )
