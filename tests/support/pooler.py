"""PgBouncer with pooling of transactions, between the processes of a run and PostgreSQL.

`TEST_POOLER=pgbouncer` lets every test's processes go through it. It needs the package of that name.
"""

import os
import shutil
from urllib.parse import urlsplit

from deploy.local import machine, servers
from deploy.local.machine import StackError
from deploy.local.stack import LocalStack

NAME = "PgBouncer"
_POOL_SIZE = 6
"""Sessions of each login and database; fewer than a worker's threads, so that they do share."""


def is_wanted() -> bool:
    """Whether this run's processes shall go through the pooler."""
    chosen = os.environ.get("TEST_POOLER", "")
    if chosen not in {"", "pgbouncer"}:
        raise StackError(f"TEST_POOLER is {chosen!r}; it may be pgbouncer")
    return bool(chosen)


def start(stack: LocalStack, *, pool_size: int = _POOL_SIZE) -> int:
    """Start it before the stack's PostgreSQL, for its processes' logins and its owner; return its port."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise StackError("no PgBouncer here: apt-get install pgbouncer")
    owner = urlsplit(stack.settings["ADMIN_DATABASE_URL"])
    logins = {prefix.lower(): password for prefix, password in stack.passwords.items()}
    logins[str(owner.username)] = str(owner.password)
    folder = machine.give(stack.home / "pgbouncer", machine.server_user_id())
    [port] = machine.free_ports(1)
    users, config = folder / "users.txt", folder / "pgbouncer.ini"
    users.write_text("".join(f'"{name}" "{password}"\n' for name, password in logins.items()))
    config.write_text(
        f"[databases]\n* = host={owner.hostname} port={owner.port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
        f"default_pool_size = {pool_size}\nmax_client_conn = 1000\n"
        # A test's database is dropped at its end, and PostgreSQL has sessions for so many.
        "server_idle_timeout = 2\nserver_login_retry = 1\nlog_connections = 0\nlog_disconnections = 0\n"
    )
    for path in (users, config):
        path.chmod(0o644)  # in a folder that only the servers' user enters
    server = servers.start(
        NAME, [program, str(config)], stack.logs / "pgbouncer.log", folder=folder, environ={}
    )
    stack.servers[NAME] = server
    url = owner._replace(netloc=f"{owner.username}:{owner.password}@127.0.0.1:{port}").geturl()
    server.wait_ready(lambda: servers.postgres_answers(url))
    return port
