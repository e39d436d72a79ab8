"""A standby of a stack's PostgreSQL, made with the programs of the same package, and its promotion."""

import subprocess
import time
from contextlib import closing
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import psycopg2

from deploy.local import machine, servers
from deploy.local.servers import Server
from deploy.local.stack import LocalStack
from tests.support.citus_cluster import CitusStack

_NAME = "standby"
_START_SECONDS = 60


class Standby:
    """Streams from the stack's PostgreSQL. synchronous: a commit waits until it is on this one's disk too."""

    def __init__(self, stack: LocalStack, *, synchronous: bool) -> None:
        primary = urlsplit(stack.settings["ADMIN_DATABASE_URL"])
        self._primary_url = primary.geturl()
        self._user_id = machine.server_user_id()
        folder = machine.give(stack.home / _NAME, self._user_id)
        self._data = folder / "data"
        self._programs = machine.usable(
            machine.postgres_folder() / "initdb", self._user_id, stack.home / "programs"
        ).parent
        [self.port] = machine.free_ports(1)
        self.url = primary._replace(
            netloc=f"{primary.username}:{primary.password}@127.0.0.1:{self.port}"
        ).geturl()
        from_primary = (
            f"host=127.0.0.1 port={primary.port} user={primary.username} password={primary.password}"
            f" application_name={_NAME}"
        )
        self._run(
            "pg_basebackup", "-d", from_primary, "-D", str(self._data), "-X", "stream", "-R",
            "-c", "fast", "--no-sync",
        )  # fmt: skip
        # What -R writes names options that an older libpq, which the server may be built with, does not know.
        with (self._data / "postgresql.auto.conf").open("a") as conf:
            conf.write(f"primary_conninfo = '{from_primary}'\n")
        options = {
            "listen_addresses": "127.0.0.1", "port": str(self.port), "unix_socket_directories": str(folder),
            "max_connections": "220", "timezone": "UTC", "log_line_prefix": "%m [%p] %d %a: ",
        }  # fmt: skip
        if isinstance(stack, CitusStack):  # of a coordinator
            options |= stack.postgres_options
        command = [str(self._programs / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        self.server: Server = servers.start(
            "PostgreSQL standby", command, stack.logs / "standby.log", folder=folder, environ={}
        )
        stack.servers["PostgreSQL standby"] = self.server
        self.server.wait_ready(lambda: servers.postgres_answers(self.url))
        if synchronous:
            self._on_primary(f"ALTER SYSTEM SET synchronous_standby_names = '{_NAME}'")
            self._on_primary("SELECT pg_reload_conf()")
        self._wait_streaming("sync" if synchronous else "async")

    def with_both_hosts(self, url: str) -> str:
        """Return a URL of the primary with this server's address behind it."""
        parts = urlsplit(url)
        user, at, host = parts.netloc.rpartition("@")
        query = dict(parse_qsl(parts.query)) | {"target_session_attrs": "read-write"}
        return parts._replace(
            netloc=f"{user}{at}{host},127.0.0.1:{self.port}", query=urlencode(query)
        ).geturl()

    def disconnect(self) -> None:
        """Let it take nothing more from the primary, as when the network between them has failed."""
        self._on_standby("ALTER SYSTEM SET primary_conninfo = ''")
        self._on_standby("SELECT pg_reload_conf()")
        deadline = time.monotonic() + _START_SECONDS
        while self._on_primary("SELECT FROM pg_stat_replication"):
            assert time.monotonic() < deadline, "the standby is still connected"
            time.sleep(0.05)

    def cancel_waits(self) -> int:
        """Cancel the waits of the commits that wait for it, as a person might; return how many."""
        return len(
            self._on_primary(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            )
        )

    def promote(self) -> None:
        """Make it the primary."""
        self._run("pg_ctl", "promote", "-D", str(self._data), "-w")

    def _wait_streaming(self, state: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        seen: Any = None
        while seen != [("streaming", state)]:
            assert time.monotonic() < deadline, f"the standby is {seen}: {self.server.tail()}"
            seen = self._on_primary("SELECT state, sync_state FROM pg_stat_replication")
            time.sleep(0.05)

    def _on_primary(self, statement: str) -> list[tuple[Any, ...]]:
        return _run_on(self._primary_url, statement)

    def _on_standby(self, statement: str) -> list[tuple[Any, ...]]:
        return _run_on(self.url, statement)

    def _run(self, program: str, *arguments: str) -> None:
        identity: dict[str, Any] = (
            {"user": self._user_id, "group": self._user_id, "extra_groups": []} if self._user_id >= 0 else {}
        )
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self._data.parent,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"


def _run_on(url: str, statement: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(f"{url}/postgres", connect_timeout=5)) as opened:
        opened.autocommit = True
        with opened.cursor() as cur:
            cur.execute(statement)
            return list(cur.fetchall()) if cur.description is not None else []
