"""The scenes of the demo, in the order they are played."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from tests.acceptance.books import Books
from tests.api import Api, wait_until
from tests.demo.report import Report
from tests.stack.local import Say
from tests.traffic import Expected, Publisher, Router, encode, org


@dataclass(frozen=True)
class Stage:
    """What a scene works with: the running fleet, the window of event time, where to print."""

    api: Api
    books: Books
    urls: dict[str, str]
    settings: dict[str, str]
    start: datetime
    end: datetime
    say: Say
    report: Report


Scene = Callable[[Stage], None]

_EVENTS = 12_000
_RESENT = 900


def usage(stage: Stage) -> None:
    """Publish three days of traffic with resends and malformed events; show what was counted."""
    rng = random.Random(42)
    history = Router(seed=42, start=stage.start, end=stage.end - timedelta(minutes=10))
    recent = Router(seed=43, start=stage.end - timedelta(minutes=10), end=stage.end)
    events = history.events(_EVENTS - 2_000) + recent.events(2_000)
    resent = rng.sample(events, _RESENT)
    malformed = [
        encode(events[0] | {"latencyMs": "fast"}),
        encode(events[1] | {"inputTokens": Decimal("12.5")}),
        encode({key: value for key, value in events[2].items() if key != "orgId"}),
        encode(events[3] | {"occurredAt": "2019-01-01T00:00:00Z"}),
        b'{"eventId": "cut off in the mid',
    ]
    messages = [encode(event) for event in events + resent] + malformed
    rng.shuffle(messages)
    stage.say(
        f"publishing {len(messages):,} messages: {_EVENTS:,} events, {_RESENT} resends,"
        f" {len(malformed)} malformed"
    )
    with Publisher(stage.settings["RABBITMQ_URL"]) as publisher:
        for at in range(0, len(messages), 3_000):
            publisher.publish(messages[at : at + 3_000])
            published, counted = min(at + 3_000, len(messages)), stage.books.ingestion()["inserted"]
            stage.say(f"published {published:,}, counted so far {counted:,}")
    stage.books.wait_until_settled(received=_EVENTS + _RESENT)
    wait_until(lambda: stage.books.dead_letter_count() == len(malformed), seconds=30, what="the dead letters")
    stage.say("every event is committed and rolled up")
    _show_counts(stage, Expected(events), len(messages), len(malformed))


def _show_counts(stage: Stage, expected: Expected, published: int, malformed: int) -> None:
    report = stage.report
    sums = stage.books.ingestion()
    report.heading("What became of the messages")
    report.check("published", published, _EVENTS + _RESENT + malformed)
    report.check("accepted", sums["inserted"], len(expected))
    report.check("duplicates", sums["dedupe_conflicts"], _RESENT)
    letters = stage.books.dead_letters()
    report.check("dead letters", len(letters), malformed)
    for reason, count in sorted(Counter((letter.reason, letter.detail) for letter in letters).items()):
        report.line(f"         {count} x {reason[0]}: {reason[1]}")

    report.heading("Usage over three days, as the API tells it")
    for org_id, wanted in sorted(expected.by_org.items()):
        answer = stage.api.usage(org_id, stage.start, stage.end)
        totals = answer["totals"]
        report.check(f"{org_id[-4:]} invocations", totals["invocations"], wanted.invocations)
        report.check(f"{org_id[-4:]} errors", totals["errors"], wanted.errors)
        report.check(
            f"{org_id[-4:]} tokens in and out",
            totals["inputTokens"] + totals["outputTokens"],
            wanted.input_tokens + wanted.output_tokens,
        )
        report.check(
            f"{org_id[-4:]} cost in cents", Decimal(totals["costEstimateCents"]), wanted.cost_estimate_cents
        )
    stage.books.assert_equal(expected)
    report.line("ok     raw events, hourly and daily rollups agree, to the last token and decimal")
    report.example_org = org(0)
    _show_models(stage, org(0))


def _show_models(stage: Stage, org_id: str) -> None:
    answer = stage.api.usage(org_id, stage.start, stage.end)
    by_model: dict[str, list[Decimal]] = {}
    for point in answer["series"]:
        row = by_model.setdefault(point["modelId"], [Decimal(0)] * 5)
        for column, name in enumerate(
            ("invocations", "errors", "inputTokens", "outputTokens", "costEstimateCents")
        ):
            row[column] += point[name]
    stage.report.heading(f"Usage by model, organisation {org_id}")
    stage.report.table(
        ("model", "calls", "errors", "input tokens", "output tokens", "cents"),
        [(model, *row) for model, row in sorted(by_model.items())],
    )
    freshness = stage.api.get(f"/orgs/{org_id}/freshness")
    stage.report.heading("Freshness")
    stage.report.table(
        ("model", "status", "lag (s)", "last event", "last rollup"),
        [
            (
                entry["modelId"],
                entry["status"],
                entry["lagSeconds"],
                entry["lastEventAt"],
                entry["lastRollupAt"],
            )
            for entry in freshness["entries"]
        ],
    )


SCENES: tuple[Scene, ...] = (usage,)
