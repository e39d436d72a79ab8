"""The work on the ledger's parts as a test does it, at an instant and with parts of its size."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import CollectorRegistry

from rollup_worker.key_parts import KeyParts
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.process import Stop
from shared.settings import RollupWorkerSettings, load
from tests.support.places import TestDatabase

SMALL = "200"
"""DEDUPE_PART_KEYS of two pages, for 108 events and more."""

PART = 250
"""Events that fill a part of that size."""


@contextmanager
def key_parts(
    database: TestDatabase, at: datetime | None = None, *, part_keys: str = SMALL, **environ: str
) -> Iterator[tuple[KeyParts, CollectorRegistry]]:
    """Open the work, as the worker's login, and what it would export."""
    own = Database(database.rollup_worker_url, application_name="key parts under test")
    given = {"DATABASE_URL": database.rollup_worker_url, "DEDUPE_PART_KEYS": part_keys} | environ
    clock: Callable[[], datetime] | None = None if at is None else lambda: at
    registry = CollectorRegistry()
    try:
        yield KeyParts(own, load(RollupWorkerSettings, given), RollupMetrics(registry), clock), registry
    finally:
        own.close()


def keep_parts(
    database: TestDatabase, at: datetime | None = None, *, part_keys: str = SMALL, **environ: str
) -> CollectorRegistry:
    """Do all of the work; return what would be exported."""
    with key_parts(database, at, part_keys=part_keys, **environ) as (work, registry):
        work.close()
        while work.make_filter(Stop()) or work.merge():
            pass
        work.run(Stop())
    return registry
