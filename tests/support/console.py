"""A fleet with a front door and known data, for tests that look at the console with a browser."""

import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from minio import Minio
from psycopg2.extensions import connection

from deploy.local.api import Api, wait_until
from deploy.local.checkout import ROOT
from deploy.local.front_door import CONSOLE
from deploy.local.stack import LocalStack
from deploy.local.traffic import Event, Router, org
from gateway.console.build import build
from tests.support.fleet import Fleet, Process, coverage_settings, free_port
from tests.support.places import TestDatabase, new_name, redis_database
from tests.support.seed import connect, insert_batch
from tests.support.shared_stack import TEMPLATE
from tests.support.tcp_proxy import TcpProxy

A, B, HOSTILE, EMPTY, STALE, LARGE = (org(number) for number in range(6))
"""Known data; an incident; names that mean harm; no events; events that no worker has added; many hours."""

TODAY = datetime.combine(datetime.now(UTC).date(), time(), UTC)
START, END = TODAY - timedelta(days=10), TODAY - timedelta(days=3)
"""The week of the known data; the week before it has some too."""

INCIDENT = START + timedelta(days=2, hours=10)
"""The hour in which most calls of organisation B fail."""

LARGE_DAYS, LARGE_MODELS = 84, 12
"""Of organisation LARGE, long before the known week: 24,192 points by hour and model."""

HOSTILE_NAMES = (
    "<img src=x onerror=\"document.title='harmed'\">",
    "</script><script>document.title='harmed'</script>",
    "\u202egnp.exe\u2066",
    '=HYPERLINK("http://127.0.0.1:1/","x")',
    "javascript:document.title='harmed'",
    "{{constructor.constructor('x')()}}",
    "w" * 200,
)

DIMENSIONS = "client,apiKey,provider,operation,actor:day,metadata.region"


@dataclass
class Scene:
    """What a test of the console has: the front door's address, who asks directly, and what was stored."""

    url: str
    gateway: Process
    to_database: TcpProxy
    worker: Process
    exporter: Process
    api: Api
    events: dict[str, list[Event]]
    owner_url: str
    store_url: str

    def page(self, hash_: str, actor: str = "administrator") -> str:
        """Return the console's address for a view as an actor."""
        return f"{self.url}/as/{actor}{CONSOLE}#/{hash_}"


def week(org_id: str, page: str = "usage", **more: str) -> str:
    """Return the part of an address that shows the known week of an organisation, in UTC."""
    given = {"org": org_id, "start": f"{START:%Y-%m-%d}", "end": f"{END:%Y-%m-%d}", "zone": "UTC", **more}
    return f"{page}?" + "&".join(f"{name}={value}" for name, value in given.items())


def large(**more: str) -> str:
    """Return the part of an address that shows all hours of organisation LARGE."""
    start = TODAY - timedelta(days=200)
    end = start + timedelta(days=LARGE_DAYS)
    return week(LARGE, start=f"{start:%Y-%m-%d}", end=f"{end:%Y-%m-%d}", by="hour", top="50", **more)


def fill_large(owner: connection) -> None:
    """Make the rollups of organisation LARGE, without events."""
    begin = TODAY - timedelta(days=200)
    with owner.cursor() as cur:
        for table, hours in (("hourly_rollups", 1), ("daily_rollups", 24)):
            cur.execute(
                f"INSERT INTO analytics.{table}"
                " (org_id, bucket_start, model_id, invocations, errors, status_error, status_timeout,"
                " status_throttled, input_tokens, output_tokens, cost_estimate_cents, latency_bins,"
                " latency_counts)"
                " SELECT %(org)s, %(begin)s::timestamptz + b * %(hours)s * interval '1 hour', 'model-' || m,"
                " m * %(hours)s, 0, 0, 0, 0, m * %(hours)s, m * %(hours)s, m * %(hours)s * 1.000001, '{5}',"
                " ARRAY[m * %(hours)s]"
                " FROM generate_series(0, %(buckets)s - 1) b, generate_series(1, %(models)s) m",
                {"org": LARGE, "begin": begin, "hours": hours, "buckets": 24 * LARGE_DAYS // hours,
                 "models": LARGE_MODELS},
            )  # fmt: skip
            cur.execute(f"ANALYZE analytics.{table}")


def _known() -> dict[str, list[Event]]:
    """Return the events of each organisation."""
    before = Router(seed=1, start=START - timedelta(days=7), end=START, orgs=1, details=True).events(150)
    during = Router(seed=2, start=START, end=END, orgs=1, details=True).events(400)
    calm = Router(seed=3, start=START, end=END, orgs=1, details=True).events(300)
    bad = Router(
        seed=4,
        start=INCIDENT + timedelta(minutes=20),
        end=INCIDENT + timedelta(minutes=24),
        orgs=1,
        models=("openai/gpt-oss-120b",),
        error_share=0.6,
        latency_factor=10,
        details=True,
    ).events(120)
    hostile = Router(seed=5, start=START, end=END, orgs=1, models=HOSTILE_NAMES, details=True).events(140)
    rng = random.Random(6)
    for event in hostile:
        name = rng.choice(HOSTILE_NAMES)
        event |= {"clientId": name, "actorId": name, "metadata": {"region": name}}
        if event["status"] != "success" or rng.random() < 0.3:
            event |= {"status": "error", "errorCode": name[:128]}
    return {A: before + during, B: _of(B, calm + bad), HOSTILE: _of(HOSTILE, hostile)}


def _of(org_id: str, events: list[Event]) -> list[Event]:
    return [event | {"orgId": org_id} for event in events]


def in_week(events: list[Event]) -> list[Event]:
    """Return the events of the known week."""
    return [event for event in events if START <= datetime.fromisoformat(event["occurredAt"]) < END]


def cents(events: list[Event]) -> Decimal:
    """Add up the cost exactly."""
    return sum((event["costEstimateCents"] for event in events), Decimal())


def stale_events() -> list[Event]:
    """Return events for the organisation whose numbers lag behind."""
    now = datetime.now(UTC)
    events = Router(seed=7, start=now - timedelta(minutes=20), end=now - timedelta(minutes=11), orgs=1)
    return _of(STALE, events.events(5))


def browser_path() -> str:
    """Return the system's Chromium, best the one without windows, which takes a third of the CPU.

    Raises AssertionError that says how to get one.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, "no Chromium here: make browser-package, or apt-get install chromium"
    return found


@contextmanager
def open_scene(stack: LocalStack, folder: Path) -> Iterator[Scene]:
    """Start a fleet of its own with the known data, and the front door before it."""
    build()
    name = new_name("_")
    url = stack.create_database(name, TEMPLATE)
    database = TestDatabase(url, stack.process_urls(url))
    bucket = new_name("-")
    environ = {
        "DATABASE_URL": url,
        "REDIS_URL": redis_database(stack.settings["REDIS_URL"]),
        **{name: stack.settings[name] for name in stack.settings if name.startswith("S3_")},
        **database.process_urls,
        "S3_BUCKET": bucket,
        "ROLLUP_DIMENSIONS": DIMENSIONS,
        "EXPORT_WORKER_INTERVAL": "500ms",
        "FRESHNESS_CACHE_TTL": "1ms",
        "WEB_CONCURRENCY": "1",  # what is counted in each process is then counted once
    }
    to_database = TcpProxy.before(environ["GATEWAY_DATABASE_URL"])
    environ["GATEWAY_DATABASE_URL"] = to_database.url(environ["GATEWAY_DATABASE_URL"])
    Minio(
        stack.settings["S3_ENDPOINT"], stack.settings["S3_ACCESS_KEY"], stack.settings["S3_SECRET_KEY"],
        secure=stack.settings["S3_SECURE"] == "true",
    ).make_bucket(bucket)  # fmt: skip
    events = _known()
    fleet = Fleet(environ, folder)
    door: subprocess.Popen[bytes] | None = None
    try:
        gateway, worker, exporter = fleet.start_ready("gateway", "rollup_worker", "export_worker")
        owner = connect(url)
        for each in events.values():
            insert_batch(owner, each)
        fill_large(owner)
        door_url, door = _front_door(gateway.url, folder)
        scene = Scene(
            door_url,
            gateway,
            to_database,
            worker,
            exporter,
            Api(gateway.url),
            events,
            url,
            f"{'https' if stack.settings['S3_SECURE'] == 'true' else 'http'}://{stack.settings['S3_ENDPOINT']}/",
        )
        _wait_for_rollups(scene)
        _fail_a_job(owner)
        owner.close()
        yield scene
    finally:
        if door is not None:
            door.terminate()
            door.wait(10)
        fleet.close()
        to_database.close()
        stack.drop_database(name)


def _front_door(gateway_url: str, folder: Path) -> tuple[str, subprocess.Popen[bytes]]:
    port = free_port()
    command = [sys.executable, "-m", "deploy.local.front_door", "--port", str(port), "--gateway", gateway_url]
    with (folder / "front_door.log").open("wb") as log:
        door = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log,
            env={"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1", **coverage_settings()},
        )  # fmt: skip
    return f"http://127.0.0.1:{port}", door


def _wait_for_rollups(scene: Scene) -> None:
    """Wait until the newest hours show what was stored."""
    stored = sum(map(len, scene.events.values()))
    window = {"start": _text(START - timedelta(days=8)), "end": _text(TODAY)}

    def settled() -> bool:
        answer = scene.api.get("/usage", **window, granularity="total")
        return bool(answer["totals"]["invocations"] == stored) and answer["freshness"]["lagSeconds"] == 0

    wait_until(settled, seconds=30, what="the rollups of the known data")


def _text(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def _fail_a_job(owner: Any) -> None:
    with owner.cursor() as cur:
        cur.execute(
            "INSERT INTO analytics.export_jobs (org_id, job_id, status, granularity, window_start,"
            " window_end, requested_by, completed_at, error) VALUES"
            " (%s, %s, 'failed', 'daily', '2026-11-01Z', '2026-11-02Z', 'finance', now(),"
            " 'the bucket is gone')",
            (B, str(uuid.uuid4())),
        )
