"""The console's windows and cuts, chosen as a person does: each is in the address and asked of the API."""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from playwright.sync_api import Page, expect

from tests.console.conftest import card, choose, rows_of, settle
from tests.support.console import END, START, A, Scene, cents, week

Show = Callable[..., Page]

BERLIN = ZoneInfo("Europe/Berlin")


def test_each_window_is_whole_days_of_the_browser_s_zone(show: Show) -> None:
    page = show(f"usage?org={A}")
    assert "zone=Europe%2FBerlin" in page.url
    today = datetime.now(BERLIN).date()
    month = today.replace(day=1)
    tomorrow = today + timedelta(days=1)
    windows = {
        "Today": (today, tomorrow),
        "7 days": (today - timedelta(days=6), tomorrow),
        "30 days": (today - timedelta(days=29), tomorrow),
        "90 days": (today - timedelta(days=89), tomorrow),
        "This month": (month, _next_month(month)),
        "Last month": ((month - timedelta(days=1)).replace(day=1), month),
    }
    for name, (start, end) in windows.items():
        button = page.get_by_role("button", name=name, exact=True)
        with page.expect_request(re.compile(r"/usage\?")) as asked:
            button.click()
        settle(page)
        assert f"start={start}&end={end}" in page.url, name
        # Midnight of the zone, in UTC.
        begin = datetime.combine(start, datetime.min.time(), BERLIN).astimezone(ZoneInfo("UTC"))
        assert f"start={begin:%Y-%m-%dT%H}%3A00%3A00Z" in asked.value.url
        expect(button).to_have_attribute("aria-pressed", "true")
        # The last day that is in, as people say it.
        assert page.get_by_label("From").input_value() == f"{start}"
        assert page.get_by_label("to", exact=True).input_value() == f"{end - timedelta(days=1)}"


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)


def spend(scene: Scene, start: str, end: str) -> Decimal:
    """Return what organisation A spent between two local times of Berlin."""
    first, last = (datetime.fromisoformat(each).replace(tzinfo=BERLIN) for each in (start, end))
    return cents([e for e in scene.events[A] if first <= datetime.fromisoformat(e["occurredAt"]) < last])


def test_a_window_of_one_s_own_is_of_days_or_of_times(scene: Scene, show: Show) -> None:
    page = show(week(A, zone="Europe/Berlin", start="2026-01-01", end="2026-01-03"))
    first, last = START.date() + timedelta(days=1), END.date() - timedelta(days=2)
    # The begin may be chosen before the end, or the other way round.
    page.get_by_label("From").fill(f"{first}")
    settle(page)
    assert f"start={first}&end={first + timedelta(days=1)}" in page.url
    page.get_by_label("to", exact=True).fill(f"{last}")
    settle(page)
    assert Decimal(card(page, "Spend")) == spend(scene, f"{first}", f"{last + timedelta(days=1)}") > 0
    page.get_by_label("time of day").check()
    settle(page)
    page.get_by_label("From").fill(f"{first}T06:00")
    settle(page)
    page.get_by_label("until").fill(f"{last}T18:00")
    settle(page)
    assert Decimal(card(page, "Spend")) == spend(scene, f"{first}T06:00", f"{last}T18:00")
    page.get_by_label("until").fill(f"{first}T05:00")
    settle(page)
    assert f"start={first}T04%3A00&end={first}T05%3A00" in page.url


def test_the_granularity_the_measure_and_how_many_groups_are_chosen(scene: Scene, show: Show) -> None:
    page = show(week(A, group="actor"))
    whole = card(page, "Calls")
    choose(page, "Top", "5")
    shown = rows_of(page, "By user: the 5 largest and all other")
    assert len(shown) == 6
    assert shown[-1][0] == "all other"
    assert sum(int(row[3]) for row in shown) == int(whole)
    choose(page, "Group by", "model")
    choose(page, "By", "hour")
    choose(page, "Show", "tokens")
    expect(page.locator("figcaption")).to_have_text("Input and output tokens by hour and model")
    assert card(page, "Calls") == whole
    assert all(part in page.url for part in ("by=hour", "group=model", "top=5", "measure=tokens"))
