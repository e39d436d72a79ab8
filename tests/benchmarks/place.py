"""Where a benchmark runs: a database, queues and processes of its own on the servers of the run."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

import pika

from deploy.local.checkout import ROOT
from deploy.local.stack import LocalStack
from shared.rabbitmq.topology import Topology, declare
from tests.support.fleet import Fleet, Process
from tests.support.release_before import migrate
from tests.support.seed import connect

TEMPLATE = "benchmark_template"

_KEEP_PERCENTILES = """
    UPDATE analytics.{table} SET percentiles_of = invocations,
        percentiles = analytics.percentiles_ms(latency_bins, latency_counts)
                      || analytics.percentiles_ms(first_token_bins, first_token_counts)
    WHERE %(org_ids)s::uuid[] IS NULL OR org_id = ANY (%(org_ids)s::uuid[])"""


class Place:
    """A context manager; at its end the processes, the database and the queues are gone.

    root: the folder of another release, whose schema and processes are to be there.
    """

    def __init__(self, stack: LocalStack, name: str, root: Path = ROOT) -> None:
        self._stack = stack
        self._root = root
        self._name = f"bench_{name}"
        self.broker_url = stack.settings["RABBITMQ_URL"]
        self.topology = Topology(*(f"{self._name}.{part}" for part in ("events", "queue", "dlx", "dlq")))
        self._logs = Path(tempfile.mkdtemp(prefix="analytics-benchmark-"))

    def __enter__(self) -> Self:
        if self._root == ROOT:
            self.database_url = self._stack.create_database(self._name, TEMPLATE)
        else:
            self.database_url = self._stack.create_database(self._name)
            migrate(self.database_url, self._root)
        self.owner = connect(self.database_url)
        parameters = pika.URLParameters(self.broker_url)
        parameters.heartbeat = 0  # nobody answers heartbeats while minutes go by in a query
        self._connection = pika.BlockingConnection(parameters)
        self.channel = self._connection.channel()
        declare(self.channel, self.topology)
        self.fleet = Fleet(
            {
                "DATABASE_URL": self.database_url,
                **self._stack.process_urls(self.database_url),
                **{
                    name: value
                    for name, value in self._stack.settings.items()
                    if name.startswith(("S3_", "REDIS_"))
                },
                "RABBITMQ_URL": self.broker_url,
                "RABBITMQ_EXCHANGE": self.topology.exchange,
                "RABBITMQ_QUEUE": self.topology.queue,
                "RABBITMQ_DEAD_LETTER_EXCHANGE": self.topology.dead_letter_exchange,
                "RABBITMQ_DEAD_LETTER_QUEUE": self.topology.dead_letter_queue,
            },
            self._logs,
            self._root,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.fleet.close()
        self._connection.process_data_events(0)
        for queue in (self.topology.queue, self.topology.dead_letter_queue):
            self.channel.queue_delete(queue)
        for exchange in (self.topology.exchange, self.topology.dead_letter_exchange):
            self.channel.exchange_delete(exchange)
        self._connection.close()
        self.owner.close()
        self._stack.drop_database(self._name)
        shutil.rmtree(self._logs, ignore_errors=True)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        """Run a query as the database's owner."""
        with self.owner.cursor() as cur:
            cur.execute(sql)
            return list(cur.fetchall())

    def number(self, sql: str) -> float:
        """Return the one number a query answers; 0 for NULL."""
        [[answer]] = self.rows(sql)
        return float(answer or 0)  # type: ignore[arg-type]  # a number, as the caller says

    def keep_percentiles(self, org_ids: list[str] | None = None) -> None:
        """Keep the percentiles of the models' rollups, as the rollup worker does in time."""
        with self.owner.cursor() as cur:
            for table in ("hourly_rollups", "daily_rollups"):
                cur.execute(_KEEP_PERCENTILES.format(table=table), {"org_ids": org_ids})

    def waiting(self) -> int:
        """Return how many messages are ready in the queue of events."""
        count: int = self.channel.queue_declare(self.topology.queue, passive=True).method.message_count
        return count

    def dead_letters(self) -> int:
        """Return how many dead letters there are."""
        declared = self.channel.queue_declare(self.topology.dead_letter_queue, passive=True)
        count: int = declared.method.message_count
        return count

    def consume_bare(self, count: int, *, ack_every: int) -> float:
        """Let a bare consumer take this many messages; return the seconds it took."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.benchmarks.bare_consumer",
                self.topology.queue,
                str(count),
                str(ack_every),
            ],
            cwd=ROOT,
            env={"RABBITMQ_URL": self.broker_url},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        return float(done.stdout)


def peak_memory_mb(process: Process) -> float:
    """Return the most memory a process ever had resident, in MB (Linux)."""
    return memory_mb(process.popen.pid, "VmHWM")


def memory_mb(pid: int, what: str) -> float:
    """Return a figure of a process's memory in MB (Linux). what: VmRSS, or VmHWM for the most it ever had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(rf"{what}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024 / 1e6
