"""A gateway over a known week of events, and questions about it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client import CollectorRegistry
from psycopg2.extensions import connection

from deploy.local.traffic import Router, org
from rollup_worker.dimensions import keep_dimensions
from rollup_worker.rollups import Rollups
from shared.metrics import RollupMetrics
from shared.postgres import Database
from shared.settings import KeptDimension
from tests.support.gateway_app import OWNER, Gateway
from tests.support.places import TestDatabase
from tests.support.seed import insert_batch

START = datetime(2026, 11, 9, tzinfo=UTC)
WEEK = "start=2026-11-09T00:00:00Z&end=2026-11-16T00:00:00Z"
ORG = f"/orgs/{org(0)}"
WINDOW = {"start": "2026-11-09T00:00:00Z", "end": "2026-11-16T00:00:00Z"}
KEPT = ("client", "apiKey", "provider", "operation", "metadata.region")
_UNICODE = "\u00dc\u65e5\u672c"


def gateway_over_a_week(environ: dict[str, str], database: TestDatabase, owner: connection) -> Gateway:
    """Return a gateway over 300 events of three organisations, the first hundred with odd clients."""
    worker = Database(database.rollup_worker_url, application_name="rollups")
    actor = KeptDimension("actor", keeps_hours=False)
    keep_dimensions(worker, (*(KeptDimension(name) for name in KEPT), actor))
    events = Router(seed=3, start=START, end=START + timedelta(days=7)).events(300)
    for event in events[:100]:
        event["clientId"] = "=cmd()"
    for event in events[100:110]:
        event["clientId"] = _UNICODE
    for event in events:
        event |= {"operation": "chat", "provider": "self-hosted", "apiKeyId": "key_prod"}
    insert_batch(owner, events)
    assert Rollups(worker, RollupMetrics(CollectorRegistry())).add_waiting()
    worker.close()
    return Gateway(environ)


def ask(gateway: Gateway, path: str, **parameters: str) -> Any:
    """Return the answer about the week that organisation 0 is given."""
    return gateway.get(f"{ORG}/{path}", OWNER, **WINDOW, **parameters)
