"""The local servers together: started side by side, the database prepared, the settings that follow."""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg2
from psycopg2 import sql

from deploy.local import containers, machine, servers
from deploy.local.checkout import ROOT
from deploy.local.containers import ContainerServer
from deploy.local.machine import StackError
from deploy.local.servers import Server

PROCESS_ROLES = {
    "INGESTOR": "analytics_ingestor",
    "ROLLUP_WORKER": "analytics_rollup_worker",
    "EXPORT_WORKER": "analytics_export_worker",
    "GATEWAY": "analytics_gateway",
}
"""The database role of each process, by the prefix of the setting that carries its URL."""

_MIN_FREE_BYTES = 1_000_000_000
"""What the servers need on the disk; RabbitMQ takes no message when it is nearly full."""

WriteLine = Callable[[str], None]


def quiet(_: str) -> None:
    """Write nothing."""


class LocalStack:
    """Starts what the environment does not already name, and stops it.

    home: a folder for data, logs and programs. shared_buffers: PostgreSQL's own cache. in_containers: have
    a Docker engine run the servers. The settings hold the contract's names for the running servers, and
    ADMIN_DATABASE_URL when PostgreSQL is one of them.
    """

    def __init__(
        self,
        home: Path,
        *,
        shared_buffers: str = "256MB",
        environ: Mapping[str, str] = os.environ,
        in_containers: bool = False,
        write_line: WriteLine = quiet,
    ) -> None:
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
        home.chmod(0o711)  # the servers' user passes through to its own private folder and sees nothing else
        if not machine.reachable(home / "x", machine.server_user_id()):
            raise StackError(f"the servers' user cannot enter {home}: choose a folder it can reach")
        if (free := shutil.disk_usage(home).free) < _MIN_FREE_BYTES and not in_containers:
            raise StackError(
                f"{home} has {free / 1e6:,.0f} MB free; the servers need {_MIN_FREE_BYTES / 1e6:,.0f} MB"
            )
        self.home = home
        self.logs = home / "logs"
        self.logs.mkdir(mode=0o700, exist_ok=True)
        self._programs = home / "programs"
        self._programs.mkdir(mode=0o755, exist_ok=True)
        self._shared_buffers = shared_buffers
        self._environ = environ
        self._in_containers = in_containers
        self._write_line = write_line
        self.passwords = {prefix: secrets.token_urlsafe(18) for prefix in PROCESS_ROLES}
        self.servers: dict[str, Server | ContainerServer] = {}
        self.settings: dict[str, str] = {}
        self.pooler_port: int | None = None
        """Where a pooler listens that stands between the processes and PostgreSQL, if one does."""

    def start(self) -> Self:
        """Start the servers side by side. Raises StackError with what failed and where it logged."""
        starts = containers.starts() if self._in_containers else self._local_starts()
        wanted = {name: start for name, start in starts.items() if not self._environ.get(name)}
        self.settings |= {
            name: value for name, value in self._environ.items() if name in starts or name.startswith("S3_")
        }
        try:
            with ThreadPoolExecutor() as pool:
                for future in [pool.submit(self._timed, start) for start in wanted.values()]:
                    future.result()
        except BaseException:
            self.stop()
            raise
        return self

    def _local_starts(self) -> dict[str, Callable[[], Sequence[Server]]]:
        home, logs, programs = self.home, self.logs, self._programs
        return {
            "DATABASE_URL": lambda: [
                servers.start_postgres(
                    home / "postgres", logs / "postgres.log", programs, shared_buffers=self._shared_buffers
                )
            ],
            "RABBITMQ_URL": lambda: servers.start_rabbitmq(home / "rabbitmq", logs / "rabbitmq.log"),
            "REDIS_URL": lambda: [servers.start_valkey(home / "redis", logs / "redis.log", programs)],
            "S3_ENDPOINT": lambda: [servers.start_seaweedfs(home / "s3", logs / "s3.log", programs)],
        }

    def _timed(self, start: Callable[[], Sequence[Server | ContainerServer]]) -> None:
        began = time.monotonic()
        started = start()
        for server in started:
            self.servers[server.name] = server
            self.settings |= server.settings
        self._write_line(f"{started[-1].name} is up after {time.monotonic() - began:.1f} s")

    def create_database(self, name: str, template: str = "template0") -> str:
        """Create a database and return its owner's URL (here: the administrator's)."""
        url = self.settings["ADMIN_DATABASE_URL"]
        with _session(f"{url}/postgres") as cur:
            cur.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                    sql.Identifier(name), sql.Identifier(template)
                )
            )
        return f"{url}/{name}"

    def stop_waiting_for_the_disk(self) -> None:
        """Let PostgreSQL survive the end of its processes, but no longer that of the machine.

        For data that nobody will miss: a commit then costs what it costs in memory.
        """
        with _session(f"{self.settings['ADMIN_DATABASE_URL']}/postgres") as cur:
            cur.execute("ALTER SYSTEM SET fsync = off")
            cur.execute("SELECT pg_reload_conf()")

    def make_template(self, name: str) -> None:
        """Close a database to every connection, so that it can be copied at any time.

        TimescaleDB keeps a worker of its own connected to each database that lets it.
        """
        with _session(f"{self.settings['ADMIN_DATABASE_URL']}/postgres") as cur:
            cur.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            cur.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is still connected."""
        with _session(f"{self.settings['ADMIN_DATABASE_URL']}/postgres") as cur:
            cur.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def create_logins(self) -> None:
        """Create a login for each process in the role the migrations made for it."""
        with _session(f"{self.settings['ADMIN_DATABASE_URL']}/postgres") as cur:
            for prefix, role in PROCESS_ROLES.items():
                login = sql.Identifier(prefix.lower())
                cur.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(login))
                cur.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD %s IN ROLE {}").format(
                        login, sql.Identifier(role)
                    ),
                    (self.passwords[prefix],),
                )

    def process_urls(self, database_url: str) -> dict[str, str]:
        """Return the settings that give each process its own login to a database."""
        parts = urlsplit(database_url)
        return {
            f"{prefix}_DATABASE_URL": urlunsplit(
                parts._replace(
                    netloc=f"{prefix.lower()}:{password}@{parts.hostname}:{self.pooler_port or parts.port}"
                )
            )
            for prefix, password in self.passwords.items()
        }

    def prepare_database(self, name: str = "analytics") -> None:
        """Make the settings name a migrated database, with a login for each process when it is ours."""
        if self._environ.get("DATABASE_URL"):
            migrate(self.settings["DATABASE_URL"])
            return
        self.settings["DATABASE_URL"] = self.create_database(name)
        migrate(self.settings["DATABASE_URL"])
        self.create_logins()
        self.settings |= self.process_urls(self.settings["DATABASE_URL"])

    def stop(self) -> None:
        """Stop every server, side by side; the port mapper last."""
        mapper = self.servers.pop("epmd", None)
        if self.servers:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda server: server.stop(), self.servers.values()))
        if mapper is not None:
            mapper.stop()
        self.servers = {}


def migrate(database_url: str) -> None:
    """Bring a database's schema up to date. Raises StackError with what the command wrote."""
    done = subprocess.run(
        [sys.executable, "-m", "shared.migrate"],
        cwd=ROOT, env={**os.environ, "DATABASE_URL": database_url, "LOG_FORMAT": "console"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise StackError(f"the migrations failed:\n{done.stderr}")


class _session:  # noqa: N801  reads as a function
    """A cursor in autocommit, closed with its connection at the end of the block."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def __enter__(self) -> psycopg2.extensions.cursor:
        return self._connection.cursor()

    def __exit__(self, *_: object) -> None:
        self._connection.close()
