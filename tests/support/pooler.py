"""PgBouncer with pooling of transactions, between the processes of a run and PostgreSQL.

`TEST_POOLER=pgbouncer` lets every test's processes go through it. It needs the package of that name.
"""

import configparser
import os
import shutil
from urllib.parse import urlsplit

from deploy.local import machine, servers
from deploy.local.checkout import ROOT
from deploy.local.machine import StackError
from deploy.local.servers import Server
from deploy.local.stack import LocalStack

NAME = "PgBouncer"
CONFIG = ROOT / "k8s/components/pooler/pgbouncer.ini"
"""What production runs with; tests change addresses, TLS and the size of pools."""
_POOL_SIZE = 6
"""Sessions of each login and database; fewer than a worker's threads, so that they do share."""


def is_wanted() -> bool:
    """Whether this run's processes shall go through the pooler."""
    chosen = os.environ.get("TEST_POOLER", "")
    if chosen not in {"", "pgbouncer"}:
        raise StackError(f"TEST_POOLER is {chosen!r}; it may be pgbouncer")
    return bool(chosen)


def start(stack: LocalStack, *, pool_size: int = _POOL_SIZE, folder: str = "pgbouncer") -> Server:
    """Start it before the stack's PostgreSQL, for its processes' logins and its owner.

    folder: a name of its own below the stack's. Its settings hold PORT.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise StackError("no PgBouncer here: apt-get install pgbouncer")
    owner = urlsplit(stack.settings["ADMIN_DATABASE_URL"])
    logins = {prefix.lower(): password for prefix, password in stack.passwords.items()}
    logins[str(owner.username)] = str(owner.password)
    home = machine.give(stack.home / folder, machine.server_user_id())
    [port] = machine.free_ports(1)
    users, config = home / "users.txt", home / "pgbouncer.ini"
    users.write_text("".join(f'"{name}" "{password}"\n' for name, password in logins.items()))
    deployed = configparser.ConfigParser(interpolation=None)
    deployed.read_string(CONFIG.read_text(encoding="utf-8"))
    # Logins that a test makes are looked up.
    deployed["databases"] = {"*": f"host={owner.hostname} port={owner.port} auth_user={owner.username}"}
    of_pooler = deployed["pgbouncer"]
    del of_pooler["server_tls_sslmode"], of_pooler["server_tls_ca_file"]
    # A test's database is dropped at its end, and PostgreSQL has sessions for so many.
    of_pooler.update({
        "listen_addr": "127.0.0.1", "listen_port": str(port), "auth_file": str(users),
        "default_pool_size": str(pool_size), "server_idle_timeout": "2",
    })  # fmt: skip
    with config.open("w", encoding="utf-8") as out:
        deployed.write(out)
    for path in (users, config):
        path.chmod(0o644)  # in a folder that only the servers' user enters
    server = servers.start(
        NAME, [program, str(config)], stack.logs / f"{folder}.log", folder=home, environ={}
    )
    server.settings = {"PORT": str(port)}
    url = owner._replace(netloc=f"{owner.username}:{owner.password}@127.0.0.1:{port}").geturl()
    server.wait_ready(lambda: servers.postgres_answers(url))
    return server
