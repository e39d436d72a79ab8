"""Where a drill takes place: its own database, queues and bucket, a proxy before each server, a fleet."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import psutil
import psycopg2
from psycopg2.extensions import connection

from deploy.local.checkout import ROOT
from deploy.local.observer import Observer
from deploy.local.servers import Server
from deploy.local.stack import LocalStack, WriteLine, quiet
from tests.drills.bucket import Bucket
from tests.drills.disk import SmallDisk
from tests.drills.logs import Logs
from tests.support import citus_cluster
from tests.support.citus_cluster import CitusStack
from tests.support.fleet import Fleet, Process
from tests.support.release_before import unpack
from tests.support.tcp_proxy import TcpProxy

TEMPLATE = "drill_template"
"""The migrated database that each drill's own is copied from."""

SHARDS = 6
"""Of each table of a Citus cluster: two for each of three nodes."""

ORGS = 3
CANARY = "canary/of-org-2"
"""The only model of the last organisation; no other's answer, file or log may ever hold its name."""

SLOTS = {
    "gateway": "gateway",
    "ingestor": "ingestor",
    "ingestor-2": "ingestor",
    "rollup_worker": "rollup_worker",
    "export_worker": "export_worker",
}
"""The processes of a drill, each with its name in the Procfile."""


def new_stack(home: Path, write_line: WriteLine = quiet) -> LocalStack:
    """Return servers with durable commits, not started yet: local ones, or a Citus cluster (TEST_SERVERS)."""
    if citus_cluster.is_wanted():
        return CitusStack(home, environ={}, shards=SHARDS, durable=True, write_line=write_line)
    return LocalStack(home, environ={}, write_line=write_line)


class Scene:
    """A context manager. root: the checkout whose code the processes run.

    disk: the small one of their own that PostgreSQL's data are on, if they are.
    """

    def __init__(
        self,
        stack: LocalStack,
        folder: Path,
        name: str,
        root: Path = ROOT,
        *,
        disk: SmallDisk | None = None,
        template: str = TEMPLATE,
    ) -> None:
        self._stack = stack
        self._root = root
        self.folder = folder
        self.disk = disk
        self.postgres_folder = stack.home / "postgres"
        self._names = {
            "RABBITMQ_EXCHANGE": f"{name}.events",
            "RABBITMQ_QUEUE": f"{name}.queue",
            "RABBITMQ_DEAD_LETTER_EXCHANGE": f"{name}.dlx",
            "RABBITMQ_DEAD_LETTER_QUEUE": f"{name}.dlq",
            "S3_BUCKET": f"drill-{name}",
        }
        self.exchange = self._names["RABBITMQ_EXCHANGE"]
        self.queue = self._names["RABBITMQ_QUEUE"]
        settings = stack.settings
        self.broker_url, self.redis_url = settings["RABBITMQ_URL"], settings["REDIS_URL"]
        self.database_url = stack.create_database(f"drill_{name}", template)
        self._own_logins = stack.process_urls(self.database_url)
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
            **{key: to_database(url) for key, url in self._own_logins.items()},
            "RABBITMQ_URL": self.rabbitmq_url,
            "REDIS_URL": self.proxies["redis"].url(settings["REDIS_URL"]),
            **{key: settings[key] for key in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_SECURE")},
            "S3_ENDPOINT": f"127.0.0.1:{self.proxies['s3'].port}",
            **self._names,
            # A drill wants to see a lost job begun again within its half minute.
            "EXPORT_LEASE": "8s",
            "EXPORT_WORKER_INTERVAL": "2s",
            "EXPORT_MAX_ATTEMPTS": "20",
            # Parts of the ledger are closed, filtered and merged all the while.
            "DEDUPE_PART_KEYS": "200",
        }
        self.store_settings = {key: self.environ[key] for key in self.environ if key.startswith("S3_")} | {
            "S3_ENDPOINT": settings["S3_ENDPOINT"]
        }
        self.bucket = Bucket(self.store_settings)
        self.logs = Logs(folder, self._forbidden())
        self.fleet = Fleet(self.environ, folder, root)
        self.processes: dict[str, Process] = {}
        self.down: set[str] = set()
        """Processes that a fault has taken down and will start again."""
        self.held: dict[str, contextlib.ExitStack] = {}
        """What faults hold until their end, by the fault's name."""
        self.marks: dict[str, int] = {}
        """Where something stood when a fault began, by the fault's name."""
        self.commands: dict[str, list[subprocess.Popen[str]]] = {}
        """Commands that faults have begun."""
        self.pace = 1
        """How many times as much is published as usual."""
        self.publishers: list[threading.Lock] = []
        """Each is held while its publisher has a message under way."""
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

    def _forbidden(self) -> dict[str, str]:
        """Return what no log may hold, by what it is."""
        urls = [self.broker_url, self.redis_url, self.database_url, *self._own_logins.values()]
        passwords = {str(urlsplit(url).password) for url in urls}
        return {
            "a foreign model": CANARY,
            "a signed link": "X-Amz-Signature",
            "S3's secret key": self.store_settings["S3_SECRET_KEY"],
            **{f"password {number}": password for number, password in enumerate(sorted(passwords))},
        }

    @property
    def gateway_url(self) -> str:
        """Where the gateway answers now; it has another port after each start."""
        return self.processes["gateway"].url

    def launch(self, slot: str, root: Path | None = None, **environ: str) -> None:
        """Start a process, or start it again, without waiting for it; root: of another checkout."""
        process = self.fleet.start_of(root or self._root, SLOTS[slot], None, **environ)
        with self._lock:
            self.processes[slot] = process
            self.down.discard(slot)

    def release_before(self) -> Path:
        """Return a folder with the files of the release before. Raises NoReleaseBefore."""
        with self._lock:
            folder = self.folder / "release-before"
            if not folder.exists():
                draft = self.folder / "release-before.draft"
                draft.mkdir(exist_ok=True)
                unpack(draft).rename(folder)
            return folder

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
            with contextlib.suppress(psutil.Error):
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

    def give(self, path: Path, user_id: int) -> None:
        """Let a file belong to the user whom the servers run as."""
        os.chown(path, user_id, -1)

    def connect(self) -> connection:
        """Open a connection that does nothing, with a process's login, to another database."""
        return psycopg2.connect(
            self._own_logins["GATEWAY_DATABASE_URL"], dbname="postgres", connect_timeout=5
        )

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
