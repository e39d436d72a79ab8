"""The steps of the demo, in their order."""

import csv
import hashlib
import io
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

import urllib3

from deploy.local.api import Api, wait_until
from deploy.local.checkout import STATE
from deploy.local.demo.report import Report
from deploy.local.monitoring import Monitoring
from deploy.local.observer import Observer
from deploy.local.stack import WriteLine
from deploy.local.traffic import MODELS, Expected, Publisher, Router, encode, org
from shared.buckets import rfc3339


@dataclass(frozen=True)
class Demo:
    """What a step works with: the running fleet, the window of event time, where to print."""

    api: Api
    observer: Observer
    urls: dict[str, str]
    settings: dict[str, str]
    start: datetime
    end: datetime
    write_line: WriteLine
    report: Report


Step = Callable[[Demo], None]

_EVENTS = 12_000
_RECENT = 600  # of the last ten minutes
_RESENT = 900
_INCIDENT_EVENTS = 600
_DIVISOR = 100  # five minutes of an alert's patience are three seconds


def usage(demo: Demo) -> None:
    """Publish two weeks of traffic with resends and malformed events; show what was counted."""
    rng = random.Random(42)
    history = Router(seed=42, start=demo.start, end=demo.end - timedelta(minutes=10), details=True)
    recent = Router(seed=43, start=demo.end - timedelta(minutes=10), end=demo.end, details=True)
    events = history.events(_EVENTS - _RECENT) + recent.events(_RECENT)
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
    demo.write_line(
        f"publishing {len(messages):,} messages: {_EVENTS:,} events, {_RESENT} resends,"
        f" {len(malformed)} malformed"
    )
    with Publisher(demo.settings["RABBITMQ_URL"]) as publisher:
        for at in range(0, len(messages), 3_000):
            publisher.publish(messages[at : at + 3_000])
            published, counted = min(at + 3_000, len(messages)), demo.observer.ingestion()["inserted"]
            demo.write_line(f"published {published:,}, counted so far {counted:,}")
    demo.observer.wait_until_settled(received=_EVENTS + _RESENT)
    wait_until(
        lambda: demo.observer.dead_letter_count() == len(malformed), seconds=30, what="the dead letters"
    )
    demo.write_line("every event is committed and rolled up")
    _show_counts(demo, Expected(events), len(messages), len(malformed))


def _show_counts(demo: Demo, expected: Expected, published: int, malformed: int) -> None:
    report = demo.report
    sums = demo.observer.ingestion()
    report.heading("What became of the messages")
    report.check("published", published, _EVENTS + _RESENT + malformed)
    report.check("accepted", sums["inserted"], len(expected))
    report.check("duplicates", sums["dedupe_conflicts"], _RESENT)
    dead_letters = demo.observer.dead_letters()
    report.check("dead letters", len(dead_letters), malformed)
    for reason, count in sorted(Counter((each.reason, each.detail) for each in dead_letters).items()):
        report.line(f"         {count} x {reason[0]}: {reason[1]}")

    report.heading("Usage over two weeks, as the API answers")
    for org_id, wanted in sorted(expected.by_org.items()):
        answer = demo.api.usage(org_id, demo.start, demo.end)
        totals = answer["totals"]
        which = f"organisation ...{org_id[-4:]}"
        report.check(f"{which} calls", totals["invocations"], wanted.invocations)
        report.check(f"{which} errors", totals["errors"], wanted.errors)
        report.check(
            f"{which} tokens in and out",
            totals["inputTokens"] + totals["outputTokens"],
            wanted.input_tokens + wanted.output_tokens,
        )
        report.check(f"{which} cents", Decimal(totals["costEstimateCents"]), wanted.cost_estimate_cents)
    demo.observer.assert_equal(expected)
    report.line("ok     raw events, hourly and daily rollups agree, to the last token and decimal")
    report.example_org = org(0)
    _show_models(demo, org(0))


def _show_models(demo: Demo, org_id: str) -> None:
    answer = demo.api.usage(org_id, demo.start, demo.end)
    by_model: dict[str, list[Decimal]] = {}
    for point in answer["series"]:
        row = by_model.setdefault(point["modelId"], [Decimal(0)] * 5)
        for column, name in enumerate(
            ("invocations", "errors", "inputTokens", "outputTokens", "costEstimateCents")
        ):
            row[column] += point[name]
    demo.report.heading(f"Usage by model, organisation {org_id}")
    demo.report.table(
        ("model", "calls", "errors", "input tokens", "output tokens", "cents"),
        [(model, *(int(number) for number in row[:4]), row[4]) for model, row in sorted(by_model.items())],
    )
    freshness = demo.api.get(f"/orgs/{org_id}/freshness")
    demo.report.heading("Freshness")
    demo.report.table(
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


def incident(demo: Demo) -> None:
    """Let one model fail and slow down for four minutes, wait for the alert, find it as the runbook does."""
    folder = STATE / "monitoring"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    targets = {
        "analytics-" + name.removesuffix("_URL").lower().replace("_", "-"): url
        for name, url in demo.urls.items()
    }
    with Monitoring(folder, targets, divisor=_DIVISOR) as monitoring:
        _break_a_model(demo)
        _show_alerts(demo, monitoring)


def _break_a_model(demo: Demo) -> None:
    model = MODELS[1]
    start = demo.end - timedelta(minutes=4)
    bad = Router(
        seed=44,
        start=start,
        end=demo.end,
        orgs=1,
        models=(model,),
        error_share=0.4,
        latency_factor=12,
        details=True,
    ).events(_INCIDENT_EVENTS)
    demo.write_line(f"an incident: {model} fails and slows down for four minutes")
    with Publisher(demo.settings["RABBITMQ_URL"]) as publisher:
        publisher.publish([encode(bad[at : at + 100]) for at in range(0, len(bad), 100)])
    demo.observer.wait_until_settled(received=_EVENTS + _RESENT + len(bad))
    _show_reliability(demo, start)
    _show_incident_file(demo, model, start)


def _show_alerts(demo: Demo, monitoring: Monitoring) -> None:
    wanted = {"AnalyticsServiceHighErrorRate", "AnalyticsServiceHighLatencyP95"}
    received = monitoring.webhook.alerts
    wait_until(
        lambda: wanted <= {alert["labels"]["alertname"] for alert in received},
        seconds=60,
        what=f"the alerts {', '.join(sorted(wanted))}",
    )
    demo.report.heading(f"Alerts that reached the webhook (durations divided by {_DIVISOR})")
    for summary in sorted(
        {f"{alert['labels']['alertname']}: {alert['annotations']['summary']}" for alert in received}
    ):
        demo.report.line(summary)


def _show_reliability(demo: Demo, start: datetime) -> None:
    window = {"start": rfc3339(start - timedelta(minutes=6)), "end": rfc3339(demo.end)}
    answer = demo.api.get(
        f"/orgs/{org(0)}/reliability", **window, granularity="minute", modelId=MODELS[1], percentile="p95"
    )
    demo.report.heading(f"Reliability of {MODELS[1]}, minute by minute")
    demo.report.table(
        ("minute", "calls", "errors", "p50 ms", "p95 ms", "p99 ms", "largest error code"),
        [
            (
                point["bucketStart"][11:16],
                point["invocations"],
                f"{point['errorRate']:.1%}".rjust(6),
                *point["latencyMs"].values(),
                point["errorCodes"][0]["errorCode"] if point["errorCodes"] else "",
            )
            for point in answer["series"]
        ],
    )


def _show_incident_file(demo: Demo, model: str, start: datetime) -> None:
    window = {"start": rfc3339(start), "end": rfc3339(demo.end)}
    path = f"/analytics/v1/orgs/{org(0)}/incidents/export"
    answer = demo.api.call("GET", path, fields=window | {"modelId": model, "status": "error"})
    rows = list(csv.DictReader(io.StringIO(answer.data.decode(), newline="")))
    [(counted,)] = demo.observer.rows(
        "SELECT count(*) FROM analytics.usage_events WHERE status = 'error'"
        f" AND org_id = '{org(0)}' AND model_id = '{model}'"
        f" AND occurred_at >= '{window['start']}' AND occurred_at < '{window['end']}'"
    )
    demo.report.heading("The incident's failed calls as CSV")
    demo.report.check("rows in the file", len(rows), counted)
    for row in rows[:3]:
        demo.report.line(",".join(list(row.values())[2:12]))
    demo.report.line("...")


def export(demo: Demo) -> None:
    """Ask for a CSV of the two weeks, wait for it, download it, hold it against the API."""
    path = f"/analytics/v1/orgs/{org(0)}/exports"
    window = {"start": rfc3339(demo.start), "end": rfc3339(demo.end)}
    answer = demo.api.call("POST", path, json={"timeRange": window, "granularity": "hourly"})
    assert answer.status == 202, answer.data.decode()
    job = answer.json()
    demo.report.heading("An export of the two weeks, by hour")
    demo.write_line(f"export {job['jobId']} is {job['status']}")

    def done() -> bool:
        nonlocal job
        job = demo.api.get(f"/orgs/{org(0)}/exports/{job['jobId']}")
        return job["status"] not in {"pending", "running"}

    wait_until(done, seconds=60, what="the export")
    demo.write_line(
        f"export {job['jobId']} is {job['status']}: {job['rowCount']} rows, {job['sizeBytes']} bytes"
    )
    link = demo.api.call("GET", f"{path}/{job['jobId']}/download").headers["Location"]
    file = urllib3.request("GET", link, retries=False, timeout=30).data
    rows = list(csv.DictReader(io.StringIO(file.decode(), newline="")))
    start, end = job["timeRange"]["start"], job["timeRange"]["end"]
    totals = demo.api.get(f"/orgs/{org(0)}/usage", start=start, end=end, granularity="hour")["totals"]
    demo.report.check("SHA-256 of the download", hashlib.sha256(file).hexdigest(), job["checksum"])
    demo.report.check("rows", len(rows), job["rowCount"])
    for column, name in (
        ("invocations", "invocations"),
        ("input_tokens", "inputTokens"),
        ("cost_estimate_cents", "costEstimateCents"),
    ):
        demo.report.check(f"sum of {column}", sum(Decimal(row[column]) for row in rows), totals[name])


STEPS: tuple[Step, ...] = (usage, incident, export)
