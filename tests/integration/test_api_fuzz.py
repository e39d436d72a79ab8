"""Several actors of several organisations use the API in any order; a model knows what each must be answered.

No answer is a 5xx. Totals are sums, pages list every job once, a file is what the API says, another's job is
one that never was, the same key finds the same job, and the audit log has every answer across the line.
"""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import seed
from hypothesis.stateful import run_state_machine_as_test
from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from tests.support.api_exports import ExportRules
from tests.support.api_faults import FaultRules
from tests.support.api_model import World
from tests.support.api_questions import QuestionRules
from tests.support.fleet import Fleet
from tests.support.fuzz import EXAMPLES, SEED, TIMEOUT_SECONDS, fuzzed
from tests.support.oracle import Event
from tests.support.questions import KEPT
from tests.support.remote_gateway import RemoteGateway
from tests.support.seed import insert_batch

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)


@pytest.fixture
def world(environ: dict[str, str], owner: connection, worker: Database, tmp_path: Path) -> Iterator[World]:
    """A gateway and an export worker, with a database that all runs share."""
    keep_dimensions(worker, KEPT)
    rollups = Rollups(worker, RollupMetrics(CollectorRegistry()))

    def publish(events: list[Event]) -> None:
        insert_batch(owner, events, datetime.now(UTC))
        while rollups.add_waiting():
            pass
        now = datetime.now(UTC)
        for event in events:
            event["publishedAt"] = now

    with closing(Fleet(environ | {"FRESHNESS_CACHE_TTL": "1ms"}, tmp_path)) as fleet:
        gateway, _ = fleet.start_ready("gateway", "export_worker")
        yield World(RemoteGateway(gateway.url), owner, publish)
        assert "a bug in the gateway" not in gateway.log.read_text()


def test_the_api_keeps_its_promises_whoever_asks_what_in_whatever_order(world: World) -> None:
    shared = world

    @seed(SEED)
    class Machine(ExportRules, QuestionRules, FaultRules):
        world = shared

    run_state_machine_as_test(Machine, settings=fuzzed(3, stateful_step_count=40))
    print(dict(world.seen))  # for whoever runs it for long
    assert world.seen["run"] >= EXAMPLES
    often = (
        "create",
        "key used again",
        "next page",
        "another's",
        "download",
        "question",
        "values",
        "incident",
    )
    assert all(world.seen[name] for name in often), world.seen
