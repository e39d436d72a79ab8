"""A whole fleet under monitoring, with ordinary traffic behind it."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.local.alert_rules import shortened_expression
from deploy.local.api import Api, wait_until
from deploy.local.monitoring import Monitoring
from deploy.local.observer import Observer
from deploy.local.stack import LocalStack
from deploy.local.traffic import Publisher, Router, encode, org
from tests.support.fleet import Fleet
from tests.support.places import TestBroker, new_name, redis_database
from tests.support.shared_stack import TEMPLATE

PROCESSES = ("gateway", "ingestor", "rollup_worker", "export_worker")
ORG = org(0)
MODELS = ("model-that-breaks", "model-that-works")

DIVISOR = 100
"""Of the rules' durations: 15 minutes are 9 seconds."""

_EXPORT = """
    INSERT INTO analytics.export_jobs (org_id, granularity, window_start, window_end, requested_by)
    SELECT '{org}', 'daily', today, today + interval '1 day', 'test'
    FROM date_trunc('day', now(), 'UTC') AS today
    RETURNING 1
"""


@dataclass(frozen=True)
class Scene:
    """What runs, and how to speak to it."""

    monitoring: Monitoring
    publisher: Publisher
    observer: Observer
    fleet: Fleet
    gateway_url: str
    environ: dict[str, str]
    """The settings of all processes."""
    began: datetime


@contextmanager
def monitored_fleet(stack: LocalStack, folder: Path) -> Iterator[Scene]:
    """Start every process, Prometheus and Alertmanager; publish ordinary traffic; wait for its numbers."""
    name = new_name("_")
    url = stack.create_database(name, TEMPLATE)
    names = (name, f"{name}.q", f"{name}.dlx", f"{name}.dlq")
    broker = TestBroker(stack.settings["RABBITMQ_URL"], *names)
    environ = {
        **stack.settings, **stack.process_urls(url), **broker.settings,
        "DATABASE_URL": url, "S3_BUCKET": name.replace("_", "-"),
        "REDIS_URL": redis_database(stack.settings["REDIS_URL"]),
    }  # fmt: skip
    fleet = Fleet(environ, folder)
    try:
        processes = fleet.start_ready(*PROCESSES)
        targets = {f"analytics-{each.name.replace('_', '-')}": each.url for each in processes}
        with (
            Monitoring(folder, targets, divisor=DIVISOR) as monitoring,
            Publisher(broker.url, broker.exchange) as publisher,
            closing(Observer(url, broker.url, broker.queue, broker.dead_letter_queue)) as observer,
        ):
            scraped = f"count(up == 1) == {len(PROCESSES)}"
            wait_until(lambda: bool(monitoring.query(scraped)), seconds=20, what="the first scrape of all")
            began = datetime.now(UTC)
            scene = Scene(monitoring, publisher, observer, fleet, processes[0].url, environ, began)
            _ordinary_day(scene)
            yield scene
    finally:
        fleet.close()
        stack.drop_database(name)


def _ordinary_day(scene: Scene) -> None:
    """Some traffic, a few resends and invalid events, an export, some reads; then all gauges are there."""
    now, api = scene.began, Api(scene.gateway_url)
    events = Router(seed=7, start=now - timedelta(minutes=4), end=now, orgs=1, models=MODELS).events(600)
    scene.publisher.publish([encode(event) for event in events + events[:3]] + [b"{}", b"[]x"])
    scene.observer.wait_until_settled(received=603)
    scene.observer.rows(_EXPORT.format(org=ORG))
    known_for_15_minutes = shortened_expression(
        "last_over_time(org_model:analytics_usage_error_rate:max[1h] offset 15m)", DIVISOR
    )
    for query in ('analytics_export_jobs{status="succeeded"} == 1', known_for_15_minutes):

        def shown(query: str = query) -> bool:
            api.usage(ORG, now - timedelta(hours=1), now)
            api.get(f"/orgs/{ORG}/freshness")
            return bool(scene.monitoring.query(query))

        wait_until(shown, seconds=40, what=query)
