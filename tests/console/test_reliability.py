"""The console's view of reliability: what the API answers, and the way from a spike to its raw events."""

import csv
import io
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from playwright.sync_api import Page, expect

from tests.console.conftest import card, milliseconds, percent, rows_of, settle
from tests.support.console import END, INCIDENT, START, B, Scene, week

Show = Callable[..., Page]


def test_reliability_shows_the_incident_and_leads_to_its_raw_events(scene: Scene, show: Show) -> None:
    start, end = f"{INCIDENT:%Y-%m-%dT%H:%M}", f"{INCIDENT.replace(hour=INCIDENT.hour + 1):%Y-%m-%dT%H:%M}"
    page = show(f"reliability?org={B}&start={start}&end={end}&zone=UTC")
    window = {"start": f"{start}:00Z", "end": f"{end}:00Z"}
    answer = scene.api.get(f"/orgs/{B}/reliability", **window, granularity="minute", groupBy="none")
    totals = answer["totals"]
    assert card(page, "Error rate") == f"{totals['errorRate']:.1%}"
    for name in ("p50", "p95", "p99"):
        assert card(page, f"{name} latency") == milliseconds(totals["latencyMs"][name])
    assert card(page, "p95 time to first token") == milliseconds(totals["timeToFirstTokenMs"]["p95"])
    codes = [[code["errorCode"], f"{code['count']:,}"] for code in totals["errorCodes"]]
    assert [row[:2] for row in rows_of(page, "Error codes")] == codes
    rest = totals["errors"] - sum(code["count"] for code in totals["errorCodes"])
    expect(page.get_by_role("region", name="Error codes")).to_contain_text(f"{rest:,} more error")
    worst = max(
        (point for point in answer["series"] if point["invocations"] >= 5),
        key=lambda point: point["errorRate"],
    )
    spike = page.locator(".spike")
    assert f"{worst['errors']} of {worst['invocations']} calls failed" in spike.inner_text()
    with page.expect_download() as waiting:
        spike.get_by_role("button", name="Raw events: error (CSV)").click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text(encoding="utf-8"))))
    assert len(rows) == worst["errorsByStatus"]["error"]
    assert {row["status"] for row in rows} == {"error"}
    assert all(row["occurred_at"][:16] == worst["bucketStart"][:16] for row in rows)


def test_a_bucket_is_chosen_with_the_keyboard_and_looked_at_more_closely(scene: Scene, show: Show) -> None:
    page = show(week(B, "reliability", by="hour"))
    chart = page.get_by_role("group", name=re.compile("^Errors by status"))
    chart.focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".tip strong")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".spike h2")).to_contain_text("Chosen hour")
    assert "at=" in page.url
    page.get_by_role("button", name="Choose none").click()
    expect(page.locator(".spike h2")).to_contain_text("The worst hour")
    assert f"{INCIDENT:%H}:00" in page.locator(".spike h2").inner_text()
    page.get_by_role("button", name="Look closer").click()
    settle(page)
    assert "by=minute" in page.url
    expect(page.locator(".spike h2")).to_contain_text("The worst minute")
    # A click on a chart chooses what is below it.
    over = page.get_by_role("group", name=re.compile("^Errors by status")).locator(".u-over")
    expect(over).to_be_visible()
    box = over.bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 22.5 / 60, box["y"] + 40)
    expect(page.locator(".spike h2")).to_contain_text("Chosen minute")
    # Marking a part of it is the window then.
    page.mouse.move(box["x"] + 10, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + 40, steps=4)
    page.mouse.up()
    settle(page)
    assert f"start={INCIDENT:%Y-%m-%dT%H}%3A00" in page.url


def test_what_is_drawn_over_time_is_the_api_s_answer_by_minute_hour_and_day(scene: Scene, show: Show) -> None:
    hour = INCIDENT.replace(hour=INCIDENT.hour + 1)
    windows = {"day": (START, END), "hour": (END - timedelta(days=5), END), "minute": (INCIDENT, hour)}
    page = show(week(B, "reliability"))
    for summary in page.get_by_text("As a table").all():
        summary.click()
    for by, (start, end) in windows.items():
        window = {"start": f"{start:%Y-%m-%dT%H:%M}", "end": f"{end:%Y-%m-%dT%H:%M}"}
        if by == "day":
            window = {name: time.removesuffix("T00:00") for name, time in window.items()}
        page.goto(scene.page(week(B, "reliability", **window, by=by)))
        settle(page)
        asked = {"start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        answer = scene.api.get(f"/orgs/{B}/reliability", **asked, granularity=by, groupBy="none")
        points = answer["series"]
        assert len(points) >= 4
        tables = page.locator(".chart table").evaluate_all(
            "all => all.map(table => [...table.tBodies[0].rows].map(row =>"
            " [...row.cells].slice(1).map(cell => cell.innerText)))"
        )
        assert tables == [[_drawn(point)[at] for point in points] for at in range(4)], by


def _drawn(point: dict[str, Any]) -> list[list[str]]:
    """Return a bucket's cells in the tables of the four charts."""
    failed = f"{point['errors']:,} of {point['invocations']:,} calls failed"
    by_status = [f"{point['errorsByStatus'][status]:,}" for status in ("error", "timeout", "throttled")]
    times = [
        [milliseconds(point[name][each]) for each in ("p50", "p95", "p99")]
        for name in ("latencyMs", "timeToFirstTokenMs")
    ]
    return [[failed, percent(point["errorRate"])], [failed, *by_status], *times]
