"""Where a drill takes place: its own database, queues and bucket, a proxy before each server, a fleet."""

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg2
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from deploy.local.observer import Observer
from deploy.local.servers import Server
from deploy.local.stack import LocalStack
from tests.support.fleet import Fleet, Process
from tests.support.tcp_proxy import TcpProxy

TEMPLATE = "drill_template"
"""The migrated database that each drill's own is copied from."""

SLOTS = {
    "gateway": "gateway",
    "ingestor": "ingestor",
    "ingestor-2": "ingestor",
    "rollup_worker": "rollup_worker",
    "export_worker": "export_worker",
}
"""The processes of a drill, each with its name in the Procfile."""


class Scene:
    """A context manager. root: the checkout whose code the processes run."""

    def __init__(self, stack: LocalStack, folder: Path, name: str, root: Path = ROOT) -> None:
        self._stack = stack
        self._names = {
            "RABBITMQ_EXCHANGE": f"{name}.events",
            "RABBITMQ_QUEUE": f"{name}.queue",
            "RABBITMQ_DEAD_LETTER_EXCHANGE": f"{name}.dlx",
            "RABBITMQ_DEAD_LETTER_QUEUE": f"{name}.dlq",
            "S3_BUCKET": f"drill-{name}",
        }
        self.exchange = self._names["RABBITMQ_EXCHANGE"]
        settings = stack.settings
        self.database_url = stack.create_database(f"drill_{name}", TEMPLATE)
        self.proxies = {
            "postgresql": TcpProxy.before(self.database_url),
            "rabbitmq": TcpProxy.before(settings["RABBITMQ_URL"]),
            "redis": TcpProxy.before(settings["REDIS_URL"]),
            "s3": TcpProxy.before(f"http://{settings['S3_ENDPOINT']}"),
        }
        to_database = self.proxies["postgresql"].url
        self.rabbitmq_url = self.proxies["rabbitmq"].url(settings["RABBITMQ_URL"])
        self.environ = {
            "DATABASE_URL": to_database(self.database_url),
            **{key: to_database(url) for key, url in stack.process_urls(self.database_url).items()},
            "RABBITMQ_URL": self.rabbitmq_url,
            "REDIS_URL": self.proxies["redis"].url(settings["REDIS_URL"]),
            **{key: settings[key] for key in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SECURE")},
            "S3_ENDPOINT": f"127.0.0.1:{self.proxies['s3'].port}",
            **self._names,
            # A drill wants to see a lost job begun again within its half minute.
            "EXPORT_LEASE": "8s",
            "EXPORT_WORKER_INTERVAL": "2s",
            "EXPORT_MAX_ATTEMPTS": "20",
        }
        self.store_settings = {key: self.environ[key] for key in self.environ if key.startswith("S3_")} | {
            "S3_ENDPOINT": settings["S3_ENDPOINT"]
        }
        self.fleet = Fleet(self.environ, folder, root)
        self.processes: dict[str, Process] = {}
        self.down: set[str] = set()
        """Processes that a fault has taken down and will start again."""
        self.held: dict[str, contextlib.ExitStack] = {}
        """What faults hold until their end, by the fault's name."""
        self._lock = threading.Lock()
        # Events of yesterday and today, with room before them for those that are sent again as earlier.
        now = datetime.now(UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        self.start, self.end = midnight - timedelta(days=1), midnight + timedelta(days=1)
        self.events_from, self.events_until = self.start + timedelta(hours=2), now

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self.close)
            for slot in SLOTS:
                self.launch(slot)
            for process in self.processes.values():
                process.wait_ready(60)
            on_failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes and the proxies."""
        self.fleet.close()
        for proxy in self.proxies.values():
            proxy.close()

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers now; it has another port after each start."""
        return self.processes["gateway"].url

    def launch(self, slot: str) -> None:
        """Start a process, or start it again, without waiting for it."""
        process = self.fleet.start(SLOTS[slot])
        with self._lock:
            self.processes[slot] = process
            self.down.discard(slot)

    def launch_ended(self) -> list[tuple[str, int]]:
        """Start again what ended by itself, as an orchestrator would; return which, with the exit codes."""
        ended = [
            (slot, process.popen.returncode)
            for slot, process in list(self.processes.items())
            if slot not in self.down and process.popen.poll() is not None
        ]
        for slot, _ in ended:
            self.launch(slot)
        return ended

    def unready(self) -> list[str]:
        """Return the processes that are not ready."""
        return [slot for slot, process in self.processes.items() if not process.ready()]

    def holdings(self) -> dict[str, tuple[float, int]]:
        """Return each process's memory in MB and its open descriptors, its children's included."""
        held = {}
        for slot, process in self.processes.items():
            if process.popen.poll() is not None:
                continue
            first = psutil.Process(process.popen.pid)
            family = [first, *first.children(recursive=True)]
            memory_bytes = sum(each.memory_info().rss for each in family)
            held[slot] = (memory_bytes / 1e6, sum(each.num_fds() for each in family))
        return held

    def server(self, name: str) -> Server:
        """Return one of the stack's servers."""
        names = {"postgresql": "PostgreSQL", "rabbitmq": "RabbitMQ", "redis": "Redis", "s3": "S3"}
        server = self._stack.servers[names[name]]
        assert isinstance(server, Server)
        return server

    @contextmanager
    def owner(self) -> Iterator[connection]:
        """Open a connection past the proxy as the owner, in autocommit."""
        opened = psycopg2.connect(self.database_url, options="-c timezone=UTC", connect_timeout=5)
        opened.autocommit = True
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def observer(self) -> Iterator[Observer]:
        """Open an observer past the proxies."""
        opened = Observer(
            self.database_url,
            self._stack.settings["RABBITMQ_URL"],
            self._names["RABBITMQ_QUEUE"],
            self._names["RABBITMQ_DEAD_LETTER_QUEUE"],
        )
        try:
            yield opened
        finally:
            opened.close()
