"""A Citus cluster on this machine: a coordinator and two worker nodes in the place of the stack's PostgreSQL.

`TEST_SERVERS=citus` lets the tests of a run use it. It needs the extension beside the programs of PostgreSQL
(STACK_POSTGRES_BIN): nothing here builds it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
from psycopg2 import sql

from deploy.local import machine, servers
from deploy.local.machine import StackError
from deploy.local.servers import Server
from deploy.local.stack import PROCESS_ROLES, LocalStack, WriteLine, quiet

_OPTIONS = {
    "shared_preload_libraries": "citus",
    "citus.enable_statistics_collection": "off",
    "citus.node_conninfo": "sslmode=prefer",
    "max_prepared_transactions": "220",  # a commit on several nodes is in two phases
    "max_worker_processes": "64",  # one for each database
    "citus.recover_2pc_interval": "2s",  # what a node that was lost did not commit waits no longer
    "wal_level": "logical",  # shards move by replication
}


def is_wanted() -> bool:
    """Whether this run's tests shall run on a cluster."""
    return os.environ.get("TEST_SERVERS") == "citus"


def is_installed() -> bool:
    """Whether the extension is beside PostgreSQL's programs."""
    return any((machine.postgres_folder().parent / "lib").glob("**/citus.so"))


class CitusStack(LocalStack):
    """A stack whose PostgreSQL is the coordinator of a cluster. Every node has each of its databases.

    nodes: how many worker nodes. shards: of each table. durable: commits wait for the disk.
    """

    def __init__(
        self,
        home: Path,
        *,
        environ: Mapping[str, str] = os.environ,
        nodes: int = 2,
        shards: int = 2,
        durable: bool = False,
        write_line: WriteLine = quiet,
    ) -> None:
        super().__init__(home, environ=environ, write_line=write_line)
        self._nodes = nodes
        self.postgres_options = _OPTIONS | {
            "citus.shard_count": str(shards),
            "fsync": "on" if durable else "off",
        }

    @property
    def node_urls(self) -> list[str]:
        """The worker nodes' administrators' URLs."""
        return self.settings["CITUS_NODES"].split(",")

    def on_node(self, url: str) -> str:
        """Return the first node's administrator's URL of the database that a URL of the coordinator names."""
        return f"{self.node_urls[0]}{urlsplit(url).path}"

    def node(self, name: str) -> Server:
        """Return one of the nodes' servers."""
        node = self.servers[name]
        assert isinstance(node, Server)
        return node

    def add_node(self, database_url: str) -> str:
        """Add a node to the cluster of a database, still without shards; return its administrator's URL."""
        number = len(self.node_urls) + 1
        node = self._start_node(f"citus-node-{number}")
        url, name = node.settings["ADMIN_DATABASE_URL"], urlsplit(database_url).path.strip("/")
        node.name, node.settings = f"Citus node {number}", {}
        self.servers[node.name] = node
        self.settings["CITUS_NODES"] += f",{url}"
        # Of each that its databases are copies of a cluster knows the name.
        known = "SELECT datname FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"
        for (each,) in _run(f"{self.settings['ADMIN_DATABASE_URL']}/postgres", known):
            _run(f"{url}/postgres", "CREATE DATABASE {}", each)
        _run(f"{url}/{name}", "CREATE EXTENSION citus")
        for prefix, role in PROCESS_ROLES.items():
            _run(f"{url}/postgres", "CREATE ROLE {} NOLOGIN", role)
            _run(f"{url}/postgres", "CREATE ROLE {} LOGIN IN ROLE {}", prefix.lower(), role)
        _run(database_url, f"SELECT citus_add_node('127.0.0.1', {urlsplit(url).port})")
        return url

    def _local_starts(self) -> dict[str, Callable[[], Sequence[Server]]]:
        return super()._local_starts() | {"DATABASE_URL": self._start_cluster}

    def _start_cluster(self) -> list[Server]:
        if not is_installed():
            raise StackError("no Citus beside PostgreSQL's programs: set STACK_POSTGRES_BIN")
        nodes = [self._start_node(f"citus-node-{number}") for number in range(1, self._nodes + 1)]
        coordinator = servers.start_postgres(
            self.home / "postgres", self.logs / "postgres.log", self._programs,
            shared_buffers=self._shared_buffers, more_options=self.postgres_options,
        )  # fmt: skip
        coordinator.settings["CITUS_NODES"] = ",".join(node.settings["ADMIN_DATABASE_URL"] for node in nodes)
        for number, node in enumerate(nodes, 1):
            node.name, node.settings = f"Citus node {number}", {}
        return [*nodes, coordinator]

    def _start_node(self, name: str) -> Server:
        folder = self.home / name
        node = servers.start_postgres(
            folder, self.logs / f"{name}.log", self._programs,
            shared_buffers=self._shared_buffers, more_options=self.postgres_options,
        )  # fmt: skip
        # The coordinator comes as whoever asked it: it knows no password. Production has certificates.
        hba = folder / "data" / "pg_hba.conf"
        hba.write_text("host all all 127.0.0.1/32 trust\nhost replication all 127.0.0.1/32 trust\n")
        _run(f"{node.settings['ADMIN_DATABASE_URL']}/postgres", "SELECT pg_reload_conf()")
        return node

    def create_database(self, name: str, template: str = "template0") -> str:
        """Create a database on every node; one that is not a copy becomes a cluster's."""
        for url in self.node_urls:
            _run(f"{url}/postgres", "CREATE DATABASE {} TEMPLATE {}", name, template)
        created = super().create_database(name, template)
        if template == "template0":
            for url in [*self.node_urls, self.settings["ADMIN_DATABASE_URL"]]:
                _run(f"{url}/{name}", "CREATE EXTENSION citus")
            own = urlsplit(self.settings["ADMIN_DATABASE_URL"])
            _run(created, f"SELECT citus_set_coordinator_host('127.0.0.1', {own.port})")
            # Of the coordinator's connections to itself, by which shards move.
            own_login = f"VALUES (-1, '{own.username}', 'password={own.password}')"
            _run(created, f"INSERT INTO pg_dist_authinfo (nodeid, rolename, authinfo) {own_login}")
            for url in self.node_urls:
                _run(created, f"SELECT citus_add_node('127.0.0.1', {urlsplit(url).port})")
        return created

    def create_logins(self) -> None:
        """Create the processes' logins on every node, where the coordinator comes as them."""
        super().create_logins()
        for role in PROCESS_ROLES.values():
            # The owner may take it on. A node that is added gets the roles as the coordinator has them.
            for url in [self.settings["ADMIN_DATABASE_URL"], *self.node_urls]:
                _run(f"{url}/postgres", "ALTER ROLE {} LOGIN", role)
        for url in self.node_urls:
            for prefix, role in PROCESS_ROLES.items():
                _run(f"{url}/postgres", "DROP ROLE IF EXISTS {}", prefix.lower())
                _run(f"{url}/postgres", "CREATE ROLE {} LOGIN IN ROLE {}", prefix.lower(), role)

    def make_template(self, name: str) -> None:
        """Close a database to every connection, on every node."""
        super().make_template(name)
        for url in self.node_urls:
            _run(f"{url}/postgres", "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
            _run(
                f"{url}/postgres",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
            )

    def drop_database(self, name: str) -> None:
        """Drop a database on every node, whoever is still connected."""
        super().drop_database(name)
        for url in self.node_urls:
            _run(f"{url}/postgres", "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def _run(url: str, statement: str, *names: str) -> list[tuple[Any, ...]]:
    with closing(psycopg2.connect(url)) as opened:
        opened.autocommit = True
        with opened.cursor() as cur:
            cur.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
            return list(cur.fetchall()) if cur.description is not None else []
