"""Citus: what an event costs on a cluster of 1, 2 and 4 worker nodes, and on one server, all on this machine.

Messages of 100 events of 250 organisations wait in the queue; dimensions are the default ones. The servers
have the same programs, and commits wait for the disk. CPU time is that of the servers and, as ours,
of the ingestor and the rollup worker together. Run where Citus is beside PostgreSQL's programs.
"""

import resource
import shutil

import psutil

from deploy.local import machine
from deploy.local.servers import Server
from deploy.local.stack import LocalStack, WriteLine
from deploy.local.traffic import encode
from tests.benchmarks.dimensions import varied_events
from tests.benchmarks.drain import drain, fill
from tests.benchmarks.place import TEMPLATE, Place
from tests.benchmarks.rows import BenchRow
from tests.support.citus_cluster import CitusStack

EVENTS = 200_000
EVENTS_A_MESSAGE = 100
NODES = (1, 2, 4)
_SHARDS = 4
"""Of each table: one for each node there may be. With more, each claim of the rollup worker costs more."""
_MIN_SHARE = 0.5


def run(stack: LocalStack, write_line: WriteLine) -> list[BenchRow]:
    """Measure one server, then each cluster."""
    events = varied_events(EVENTS, seed=1)
    bodies = [encode(events[at : at + EVENTS_A_MESSAGE]) for at in range(0, EVENTS, EVENTS_A_MESSAGE)]
    del events
    alone = _measured(stack, "one server", bodies, write_line)
    rows: list[BenchRow] = []
    for nodes in NODES:
        home = machine.temporary_home("analytics-citus-")
        cluster = CitusStack(home, environ={}, nodes=nodes, shards=_SHARDS, durable=True)
        try:
            cluster.start().prepare_database(TEMPLATE)
            cluster.make_template(TEMPLATE)
            rate = _measured(cluster, f"{nodes} nodes", bodies, write_line)
        finally:
            cluster.stop()
            shutil.rmtree(home, ignore_errors=True)
        name = f"Citus, a coordinator and {nodes} nodes"
        rows.append(BenchRow(name, "events/s", rate, "one server", alone, _MIN_SHARE, "least"))
    return rows


def _measured(stack: LocalStack, name: str, bodies: list[bytes], write_line: WriteLine) -> float:
    """Drain the messages; return the rate from the first message to the last rollup."""
    with Place(stack, "citus") as place:
        fill(place, bodies)
        before, ours = _cpu_seconds(stack), _our_cpu_seconds()
        drained = drain(place, EVENTS)
        spent = {server: used - before[server] for server, used in _cpu_seconds(stack).items()}
        spent["ours"] = _our_cpu_seconds() - ours
    us = ", ".join(f"{server} {seconds * 1e6 / EVENTS:.1f}" for server, seconds in spent.items())
    write_line(f"citus: {name}, {drained.all_in_rate:,.0f} events/s; us of CPU an event: {us}")
    return drained.all_in_rate


def _cpu_seconds(stack: LocalStack) -> dict[str, float]:
    """Return what PostgreSQL's servers have used, ended processes included."""
    return {
        name: sum(
            sum(each.cpu_times()[:4]) for each in psutil.Process(server.guard.pid).children(recursive=True)
        )
        for name, server in stack.servers.items()
        if isinstance(server, Server) and name.startswith(("PostgreSQL", "Citus"))
    }


def _our_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
