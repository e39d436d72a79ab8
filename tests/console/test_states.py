"""The console where there is little to show: no right, no events, old numbers, failures, too much at once."""

import re
from collections.abc import Callable

import requests
from playwright.sync_api import Page, expect

from tests.console.conftest import Watched, axe, choose_zone, settle
from tests.support.console import EMPTY, A, B, Scene, week

Show = Callable[..., Page]

_REACHED = (
    "Usage", "Reliability", "Exports", "30 days", "Zone", "Group by", "Only", "Chart", "As a table", "Calls",
    "meta-llama/Llama-3.1-8B", "CSV of this view", "Copy as curl", "every digit",
)  # fmt: skip
"""What the Tab key must come to."""


def test_each_actor_of_the_front_door_sees_what_it_may(show: Show, watched: Watched) -> None:
    watched.allowed |= {401, 403}
    page = show(week(A), "finance")
    expect(page.locator(".card", has_text="p95 latency")).to_contain_text("analytics:reliability:read")
    expect(page.locator(".front-door strong")).to_have_text("tenant A's finance")
    page.get_by_role("link", name="Reliability").click()
    expect(page.get_by_role("alert")).to_contain_text("analytics:reliability:read")
    assert axe(page) == []
    page.get_by_role("link", name="tenant B's on-call").click()
    settle(page)
    assert f"org={B}" in page.url
    page.get_by_role("link", name="Exports").click()
    expect(page.get_by_role("alert").first).to_contain_text("analytics:exports:read")
    page.get_by_role("link", name="nobody", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("Not signed in")
    assert axe(page) == []
    page.get_by_role("link", name="administrator").click()
    settle(page)
    expect(page.locator("caption")).to_have_text("By organisation")


def test_another_organisation_is_not_shown(show: Show, watched: Watched) -> None:
    watched.allowed.add(403)
    page = show(week(B), "finance")
    expect(page.get_by_role("alert")).to_contain_text("X-Actor-Orgs does not name this organisation")
    assert page.locator(".card").count() == 0


def test_an_organisation_is_chosen_by_its_id(show: Show) -> None:
    page = show(week("all"))
    page.get_by_label("Organisation", exact=True).fill("tenant a")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("36 characters")
    page.get_by_label("Organisation", exact=True).fill(A)
    page.keyboard.press("Enter")
    settle(page)
    assert f"org={A}" in page.url
    expect(page.locator("caption")).to_have_text("By model")


def test_an_empty_organisation_learns_how_to_publish(show: Show) -> None:
    page = show(week(EMPTY))
    expect(page.get_by_role("heading", name="No events yet")).to_be_visible()
    page.get_by_role("button", name="Copy the commands").click()
    expect(page.get_by_text("Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert EMPTY in copied
    assert "analytics.usage" in copied
    assert axe(page) == []
    page.get_by_role("link", name="Reliability").click()
    expect(page.get_by_role("heading", name="No events yet")).to_be_visible()


def test_an_empty_window_leads_to_the_newest_day(show: Show) -> None:
    page = show(f"usage?org={A}&start=2025-12-01&end=2025-12-08&zone=UTC")
    expect(page.get_by_role("heading", name="No calls in this window")).to_be_visible()
    page.get_by_role("button", name="Show that day").click()
    settle(page)
    assert page.locator(".card").count() == 5


def test_a_window_too_large_says_what_would_fit(show: Show, watched: Watched) -> None:
    watched.allowed.add(400)
    page = show(f"usage?org={A}&start=2020-01-01&end=2026-11-01&zone=UTC")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("400 days")
    assert axe(page) == []
    alert.get_by_role("button", name="last 90 days").click()
    settle(page)
    assert page.get_by_role("alert").count() == 0


def test_a_dimension_kept_by_day_alone_offers_the_day(show: Show, watched: Watched) -> None:
    watched.allowed.add(400)
    page = show(week(A, group="actor", by="hour"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("actor")
    alert.get_by_role("button", name="Show by day").click()
    settle(page)
    assert page.locator("tbody tr").count() == 11  # ten and all other
    choose_zone(page, "Asia/Kolkata")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("button", name="Show in UTC").click()
    settle(page)
    assert page.locator("tbody tr").count() == 11


def test_the_keyboard_alone_reaches_and_does_everything(show: Show) -> None:
    page = show(week(A))
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "(e => e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText)"
                "(document.activeElement)"
            )
        )
        visible = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert visible != "none", reached[-1]
        if "The API" in (reached[-1] or ""):
            break
    text = "\n".join(str(each).strip() for each in reached)
    for name in _REACHED:
        assert name in text, name
    # Choosing works by keys too.
    page.get_by_role("button", name="30 days").focus()
    page.keyboard.press("Enter")
    settle(page)
    expect(page.get_by_role("button", name="30 days")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Control+Home")
    page.get_by_role("link", name="To the numbers").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_preferences_are_all_that_is_kept(show: Show) -> None:
    page = show(week(A))
    page.get_by_label("every digit").check()
    assert re.fullmatch(r"\$\d+\.\d{3,}", page.locator(".figure data").first.inner_text())
    page.get_by_label("Colours").select_option("dark")
    settle(page)
    kept = page.evaluate("JSON.stringify(localStorage)")
    assert (
        kept == '{"usage-analytics-console":"{\\"theme\\":\\"dark\\",\\"exact\\":true,\\"refresh\\":false}"}'
    )
    assert page.context.cookies() == []
    page.reload()
    settle(page)
    assert page.get_by_label("every digit").is_checked()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 17, 22)"


def test_numbers_are_in_the_person_s_locale(scene: Scene, browser: object, watched: Watched) -> None:
    context = browser.new_context(locale="de-DE", timezone_id="Europe/Berlin")  # type: ignore[attr-defined]
    page = context.new_page()
    watched.watch(page)
    page.goto(scene.page(week(A)))
    settle(page)
    assert re.fullmatch(r"\d+,\d\d\s\$", page.locator(".figure data").first.inner_text())
    context.close()
    assert watched.faults == []


def test_the_front_door_answers_on_loopback_to_its_own_pages_alone(scene: Scene) -> None:
    api = f"{scene.url}/analytics/v1/orgs/{A}/freshness"
    assert requests.get(api, timeout=10).status_code == 200
    assert requests.get(api, headers={"Host": "evil.example"}, timeout=10).status_code == 421
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert requests.get(api, headers=foreign, timeout=10).status_code == 403
    # Who asks is the front door's to say.
    forged = {"X-Actor-Subject": "x", "X-Actor-Roles": "admin"}
    nobody = api.replace("/analytics/v1", "/as/nobody/analytics/v1")
    assert requests.get(nobody, headers=forged, timeout=10).status_code == 401
    assert requests.get(f"{scene.url}/as/somebody/analytics/console/", timeout=10).status_code == 404
    assert requests.get(f"{scene.url}/as/finance/analytics/console", timeout=10).url.endswith(
        "/as/finance/analytics/console/"
    )
