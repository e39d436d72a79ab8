"""The console's views against the real stack: what it shows is what the API answers, and what was stored."""

import csv
import io
import json
import re
import subprocess
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.conftest import Watched, axe, card, choose_zone, milliseconds, percent, rows_of, settle
from tests.support.console import (
    END,
    HOSTILE,
    HOSTILE_NAMES,
    START,
    A,
    B,
    Scene,
    cents,
    in_week,
    week,
)

Show = Callable[..., Page]


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
    # The table's sums, and the sums of its rows, are the totals of the cards.
    footer = page.locator("tfoot data").evaluate_all("all => all.map(each => each.value)")
    assert [Decimal(each) for each in footer] == [
        sum(Decimal(row[at]) for row in shown) for at in (1, 3, 4, 5)
    ]
    assert Decimal(footer[0]) == expected["Spend"]
    assert Decimal(footer[1]) == expected["Calls"]
    assert Decimal(footer[2]) + Decimal(footer[3]) == expected["Tokens"]
    shares = [percent(float(stored[row[0]] / expected["Spend"])) for row in shown]
    assert [row[2] for row in shown] == shares
    assert page.locator("tbody svg.spark polyline").count() == len(shown)
    money = page.locator(".card .figure data").first
    assert re.fullmatch(r"\$\d+\.\d\d", money.inner_text())
    assert money.get_attribute("title") == f"{expected['Spend']} cents = ${expected['Spend'] / 100}".rstrip(
        "0"
    )
    page.get_by_text("input and output").click()
    parts = page.locator(".parts data").evaluate_all("all => all.map(each => Number(each.value))")
    events = in_week(scene.events[A])
    names = ("inputTokens", "cachedInputTokens", None, "outputTokens", "reasoningTokens")
    assert parts == [sum(event[name] for event in events) if name else 0 for name in names]


_COLOURS = """() => {
    const canvas = document.querySelector('.chart canvas');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const found = new Set();
    for (let at = 0; at < data.length; at += 4)
        found.add('#' + [0, 1, 2].map(each => data[at + each].toString(16).padStart(2, '0')).join(''));
    return [...found];
}"""


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
    # What is drawn has the colours that the legend names.
    named = page.locator(".legend .swatch").evaluate_all(
        "all => all.map(each => getComputedStyle(each).getPropertyValue('--color').trim())"
    )
    assert len(named) == 3
    assert set(named) <= set(page.evaluate(_COLOURS))


def test_a_view_can_be_cut_filtered_and_sorted_and_each_step_is_in_the_address(
    scene: Scene, show: Show, browser: Browser, watched: Watched
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
    # The link shows another person the same, wherever that one is.
    with browser.new_context(locale="en-US", timezone_id="America/New_York") as elsewhere:
        other = elsewhere.new_page()
        watched.watch(other)
        other.goto(page.url)
        settle(other)
        assert rows_of(other, "By model and client") == rows_of(page, "By model and client")
        assert card(other, "Spend") == card(page, "Spend")
        assert other.url == page.url
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


def test_each_card_is_compared_with_the_window_before(scene: Scene, show: Show) -> None:
    page = show(week(A))
    window = {"start": f"{START:%Y-%m-%dT%H:%M:%SZ}", "end": f"{END:%Y-%m-%dT%H:%M:%SZ}"}
    asked = {**window, "granularity": "total", "groupBy": "none", "compare": "previous"}
    usage = scene.api.get(f"/orgs/{A}/usage", **asked)
    latency = scene.api.get(f"/orgs/{A}/reliability", **asked)
    now, before = usage["totals"], usage["previous"]["totals"]
    p95, p95_before = (each["totals"]["latencyMs"]["p95"] for each in (latency, latency["previous"]))
    assert before["invocations"] == 150

    def tokens(of: dict[str, int]) -> int:
        return of["inputTokens"] + of["outputTokens"]

    def rate(of: dict[str, int]) -> float:
        return of["errors"] / of["invocations"]

    expected = {
        "Spend": (now["costEstimateCents"], before["costEstimateCents"],
                  f"${Decimal(before['costEstimateCents']) / 100:.2f}"),
        "Calls": (now["invocations"], before["invocations"], "150"),
        "Tokens": (tokens(now), tokens(before), f"{tokens(before):,}"),
        "Error rate": (rate(now), rate(before), percent(rate(before))),
        "p95 latency": (p95, p95_before, milliseconds(p95_before)),
    }  # fmt: skip
    assert page.locator(".card h2").all_inner_texts() == list(expected)
    for name, (new, old, text) in expected.items():
        found = page.locator(".card", has=page.get_by_role("heading", name=name, exact=True))
        shown = found.locator(".change").inner_text()
        assert shown.endswith(f" from {text}"), name
        words = shown.split()
        change = float(new) / float(old) - 1
        assert words[0] == ("▲" if change > 0 else "▼"), name
        assert float(words[1].rstrip("%").replace(",", "")) == pytest.approx(change * 100, abs=0.051), name


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
    model = in_week(scene.events[A])[0]["modelId"]
    page = show(week(A, group="provider", by="hour", zone="Asia/Kolkata", modelId=model))
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV of this view").click()
    text = waiting.value.path().read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    shown = {row[0]: Decimal(row[1]) for row in rows_of(page, "By provider")}
    assert _sums(rows, "provider", "cost_estimate_cents") == shown
    assert sum(shown.values()) == Decimal(card(page, "Spend"))
    page.get_by_role("button", name="Copy as curl").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith(
        f"curl -s -H 'Accept: application/json' '{scene.url}/as/administrator/analytics/v1/orgs/{A}/"
    )
    # It runs as it is, and answers what the page shows; as CSV it is the file.
    answer = json.loads(_run(command), parse_float=Decimal)
    assert _sums(answer["series"], "provider", "costEstimateCents") == shown
    assert _run(command.replace("application/json", "text/csv")) == text
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_text("Copied")).to_have_count(2)
    assert page.evaluate("navigator.clipboard.readText()") == page.url


def _sums(rows: list[dict[str, Any]], name: str, value: str) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for row in rows:
        sums[row[name]] = sums.get(row[name], Decimal()) + Decimal(row[value])
    return sums


def _run(command: str) -> str:
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True, timeout=30)
    return done.stdout.decode()


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


_MOVING = """() => [...document.querySelectorAll('*')].filter(each => {
    const style = getComputedStyle(each);
    return style.transitionDuration !== '0s' || style.animationName !== 'none';
}).map(each => each.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("view", VIEWS, ids=["usage", "reliability", "exports", "platform"])
def test_axe_finds_nothing_and_a_narrow_screen_shows_all_of_it(show: Show, view: str) -> None:
    page = show(view, emulate_media={"reduced_motion": "reduce"})
    assert page.evaluate(_MOVING) == []
    for details in page.locator("details:not(.cut) > summary").all():
        details.click()
    assert axe(page) == []
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    freshness = page.locator(".freshness")
    expect(freshness).to_be_in_viewport(ratio=1)  # always in sight
    expect(freshness).to_contain_text(re.compile(r"Up to date · as of .* UTC \(\d+ s ago\)"))
    page.emulate_media(color_scheme="dark")
    assert axe(page, "color-contrast") == []
    page.set_viewport_size({"width": 360, "height": 740})
    page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth")  # charts follow
    assert axe(page, "target-size", "scrollable-region-focusable") == []
