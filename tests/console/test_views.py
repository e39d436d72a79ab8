"""The console's views against the real stack: what it shows is what the API answers, and what was stored."""

import csv
import io
import re
from collections.abc import Callable
from decimal import Decimal

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import Watched, axe, choose_zone, settle
from tests.support.console import (
    END,
    HOSTILE,
    HOSTILE_NAMES,
    INCIDENT,
    START,
    A,
    B,
    Scene,
    cents,
    in_week,
    week,
)

Show = Callable[..., Page]


def card(page: Page, name: str) -> str:
    """Return the exact value of a card's figure, or its text."""
    found = page.locator(".card", has=page.get_by_role("heading", name=name, exact=True)).locator(".figure")
    data = found.locator("data")
    return (data.get_attribute("value") if data.count() else found.inner_text()) or ""


def rows_of(page: Page, caption: str) -> list[list[str]]:
    """Return the rows of the table with a caption; of an exact figure its value."""
    table = page.locator("table", has=page.locator("caption", has_text=caption))
    script = """rows => rows.map(row => [...row.cells].map(cell =>
        cell.querySelector('data') ? cell.querySelector('data').value : cell.innerText.trim()))"""
    found: list[list[str]] = table.locator("tbody tr").evaluate_all(script)
    return found


def expected_totals(scene: Scene, org_id: str) -> dict[str, Decimal]:
    events = in_week(scene.events[org_id])
    return {
        "Spend": cents(events),
        "Calls": Decimal(len(events)),
        "Tokens": Decimal(sum(event["inputTokens"] + event["outputTokens"] for event in events)),
    }


def test_usage_shows_what_was_stored_to_the_last_decimal(scene: Scene, show: Show) -> None:
    page = show(week(A))
    expected = expected_totals(scene, A)
    assert {name: Decimal(card(page, name)) for name in expected} == expected
    shown = rows_of(page, "By model")
    stored: dict[str, Decimal] = {}
    for event in in_week(scene.events[A]):
        stored[event["modelId"]] = stored.get(event["modelId"], Decimal()) + event["costEstimateCents"]
    assert {row[0]: Decimal(row[1]) for row in shown} == stored
    assert [row[0] for row in shown] == sorted(stored, key=lambda model: -stored[model])
    footer = page.locator("tfoot data").first.get_attribute("value")
    assert Decimal(footer or "") == expected["Spend"]
    money = page.locator(".card .figure data").first
    assert re.fullmatch(r"\$\d+\.\d\d", money.inner_text())
    assert money.get_attribute("title") == f"{expected['Spend']} cents = ${expected['Spend'] / 100}".rstrip(
        "0"
    )
    # The period before is the API's own.
    text = page.locator(".card", has_text="Calls").locator(".change").inner_text()
    assert text.endswith("from 150")
    page.get_by_text("input and output").click()
    parts = page.locator(".parts data").evaluate_all("all => all.map(each => Number(each.value))")
    events = in_week(scene.events[A])
    names = ("inputTokens", "cachedInputTokens", None, "outputTokens", "reasoningTokens")
    assert parts == [sum(event[name] for event in events) if name else 0 for name in names]


def test_the_chart_s_table_adds_up_to_the_totals(scene: Scene, show: Show) -> None:
    page = show(week(A, group="apiKey", top="2", measure="calls"))
    page.get_by_text("As a table").click()
    table = page.locator(".chart table")
    expect(table).to_be_visible()
    head = table.locator("thead th").all_inner_texts()
    assert head[0] == "day"
    assert head[1] == "in all"
    assert head[-1] == "all other"
    assert len(head) == 5
    cells = [[int(cell.replace(",", "")) for cell in row.locator("td").all_inner_texts()]
             for row in table.locator("tbody tr").all()]  # fmt: skip
    assert all(row[0] == sum(row[1:]) for row in cells)
    assert sum(row[0] for row in cells) == len(in_week(scene.events[A]))


def test_a_view_can_be_cut_filtered_and_sorted_and_each_step_is_in_the_address(
    scene: Scene, show: Show, watched: Watched
) -> None:
    page = show(week(A))
    page.get_by_label("Group by").select_option("client")
    settle(page)
    assert {row[0] for row in rows_of(page, "By client")} == {"web", "batch", "sdk-python"}
    page.get_by_label("Only").select_option("client")
    page.get_by_label("Value of client").fill("sdk")
    expect(page.locator("datalist option")).to_have_count(1)
    assert page.locator("datalist option").get_attribute("value") == "sdk-python"
    page.get_by_label("Value of client").fill("sdk-python")
    page.keyboard.press("Enter")
    settle(page)
    mine = [event for event in in_week(scene.events[A]) if event["clientId"] == "sdk-python"]
    assert Decimal(card(page, "Spend")) == cents(mine)
    page.get_by_label("Group by").select_option("model,client")
    settle(page)
    page.get_by_role("button", name="Calls").click()
    calls = [int(row[3]) for row in rows_of(page, "By model and client")]
    assert calls == sorted(calls, reverse=True)
    page.get_by_role("button", name="Calls").click()
    assert [int(row[3]) for row in rows_of(page, "By model and client")] == sorted(calls)
    # The link shows another person the same.
    other = page.context.new_page()
    other.goto(page.url)
    settle(other)
    assert rows_of(other, "By model and client") == rows_of(page, "By model and client")
    assert card(other, "Spend") == card(page, "Spend")
    # Back undoes one step after the other.
    page.go_back()
    page.go_back()
    page.go_back()
    settle(page)
    assert rows_of(page, "By client")[0][0] == "sdk-python"
    page.get_by_role("button", name="Remove the filter client").click()
    settle(page)
    assert Decimal(card(page, "Spend")) == cents(in_week(scene.events[A]))
    assert watched.faults == []


def test_days_are_those_of_the_zone(scene: Scene, show: Show) -> None:
    page = show(week(A, zone="Asia/Kolkata", group="", by="day"))
    window = {"start": f"{START:%Y-%m-%d}T00:00:00+05:30", "end": f"{END:%Y-%m-%d}T00:00:00+05:30"}
    answer = scene.api.get(f"/orgs/{A}/usage", **window, timeZone="Asia/Kolkata", groupBy="none")
    page.get_by_text("As a table").click()
    expect(page.locator(".chart tbody tr")).to_have_count(len(answer["series"]))
    assert Decimal(card(page, "Spend")) == answer["totals"]["costEstimateCents"]
    choose_zone(page, "America/New_York")
    settle(page)
    assert "zone=America%2FNew_York" in page.url
    assert (
        "EST" in page.locator(".freshness").inner_text() or "EDT" in page.locator(".freshness").inner_text()
    )


def test_the_csv_and_the_command_are_of_exactly_this_view(scene: Scene, show: Show) -> None:
    page = show(week(A, group="provider", by="hour"))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV of this view").click()
    rows = list(csv.DictReader(io.StringIO(waiting.value.path().read_text(encoding="utf-8"))))
    assert sum(Decimal(row["cost_estimate_cents"]) for row in rows) == Decimal(card(page, "Spend"))
    assert {row["provider"] for row in rows} == {"openai", "self-hosted"}
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith(
        f"curl -s -H 'Accept: application/json' '{scene.url}/as/administrator/analytics/v1/orgs/{A}/"
    )
    assert "granularity=hour" in command
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_text("Copied")).to_have_count(2)
    assert page.evaluate("navigator.clipboard.readText()") == page.url


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


def milliseconds(value: int) -> str:
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:.1f} s"


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


def test_the_administrator_sees_all_organisations_largest_first_and_one_click_leads_into_each(
    scene: Scene, show: Show
) -> None:
    page = show(week("all"))
    shown = rows_of(page, "By organisation")
    stored = {org_id: cents(in_week(events)) for org_id, events in scene.events.items()}
    assert [row[0] for row in shown] == sorted(stored, key=lambda org_id: -stored[org_id])
    assert {row[0]: Decimal(row[1]) for row in shown} == stored
    page.get_by_role("link", name=B).click()
    settle(page)
    assert Decimal(card(page, "Spend")) == stored[B]
    assert rows_of(page, "By model")
    page.get_by_role("link", name="All organisations").click()
    settle(page)
    assert len(rows_of(page, "By organisation")) == 3
    page.get_by_role("link", name="Reliability").click()
    settle(page)
    assert rows_of(page, "By organisation")[0][0] == HOSTILE


def test_an_export_is_asked_for_watched_and_fetched(scene: Scene, show: Show, watched: Watched) -> None:
    page = show(week(A, "exports"), "finance")
    page.get_by_label("Group by").select_option("model,apiKey")
    page.get_by_role("button", name="Export", exact=True).click()
    expect(page.locator(".state").first).to_have_text("ready")
    job = scene.api.get(f"/orgs/{A}/exports")["jobs"][0]
    row = page.locator("tbody tr").first
    text = row.inner_text()
    assert job["checksum"] in text
    assert f"{job['rowCount']:,}" in text
    assert "Data as of" in text
    assert "finance@tenant-a" in text
    answer = page.context.request.get(
        f"{scene.url}/as/finance/analytics/v1/orgs/{A}/exports/{job['jobId']}/download", max_redirects=0
    )
    assert answer.status == 302
    assert row.get_by_role("link", name="Download").get_attribute("href") == (
        f"../v1/orgs/{A}/exports/{job['jobId']}/download"
    )
    page.get_by_role("button", name="90 days").click()
    watched.allowed.add(400)
    page.get_by_role("button", name="Export", exact=True).click()
    problem = page.get_by_role("alert")
    expect(problem).to_contain_text("31 days")
    problem.get_by_role("button", name="last 31 days").click()
    page.get_by_role("button", name="Export", exact=True).click()
    expect(page.locator("tbody tr")).to_have_count(2)
    expect(page.locator(".state").first).to_have_text("ready")


def test_a_failed_export_says_why(show: Show) -> None:
    page = show(week(B, "exports"))
    row = page.locator("tbody tr").first
    expect(row).to_contain_text("failed")
    expect(row).to_contain_text("the bucket is gone")


@pytest.mark.parametrize("dimension", ["model", "client", "metadata.region"])
def test_names_that_mean_harm_are_text(show: Show, dimension: str) -> None:
    page = show(week(HOSTILE, group=dimension, top="50"))
    shown = {row[0] for row in rows_of(page, "By")}
    assert shown == {" ".join(name.split()) for name in HOSTILE_NAMES}
    page.get_by_text("As a table").click()
    page.locator(".plot").first.hover(position={"x": 300, "y": 100})
    assert page.locator("#app img, #app script, #app iframe").count() == 0
    assert "harmed" not in page.title()
    # The 200 characters do not push the page apart.
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    page.locator("tbody th a").nth(2).click()
    settle(page)
    assert len(page.locator(".chips button").all()) == 1
    if dimension == "model":
        page.goto(page.url.replace("#/usage", "#/reliability"))
        settle(page)
        assert rows_of(page, "Error codes")
        assert page.locator("#app img, #app script").count() == 0
        assert "harmed" not in page.title()


VIEWS = (week(A), week(B, "reliability"), week(A, "exports"), week("all"))


@pytest.mark.parametrize("view", VIEWS, ids=["usage", "reliability", "exports", "platform"])
def test_axe_finds_nothing_and_a_narrow_screen_shows_all_of_it(show: Show, view: str) -> None:
    page = show(view, emulate_media={"reduced_motion": "reduce"})
    for details in page.locator("details:not(.cut) > summary").all():
        details.click()
    assert axe(page) == []
    page.emulate_media(color_scheme="dark")
    assert axe(page, "color-contrast") == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")  # charts follow
    assert axe(page, "target-size", "scrollable-region-focusable") == []
