"""The console's exports: asked for, watched, fetched, and why one failed."""

import hashlib
import os
import signal
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.console.conftest import Watched
from tests.support.console import A, B, Scene, week

Show = Callable[..., Page]


def test_an_export_is_asked_for_watched_and_fetched(scene: Scene, show: Show, watched: Watched) -> None:
    page = show(week(A, "exports"), "finance")
    page.get_by_label("Group by").select_option("model,apiKey")
    os.killpg(scene.exporter.popen.pid, signal.SIGSTOP)
    try:
        page.get_by_role("button", name="Export", exact=True).click()
        expect(page.locator(".state").first).to_have_text("waiting")
        expect(page.locator("tbody tr").first).to_contain_text("0 so far")
    finally:
        os.killpg(scene.exporter.popen.pid, signal.SIGCONT)
    # The page watches it by itself.
    expect(page.locator(".state").first).to_have_text("ready")
    job = scene.api.get(f"/orgs/{A}/exports")["jobs"][0]
    row = page.locator("tbody tr").first
    text = row.inner_text()
    assert job["checksum"] in text
    assert f"{job['rowCount']:,}" in text
    assert "Data as of" in text
    assert "finance@tenant-a" in text
    # The file itself, from the store, is what the row says.
    watched.elsewhere.append(scene.store_url)
    with page.expect_download() as waiting:
        row.get_by_role("link", name="Download").click()
    body = waiting.value.path().read_bytes()
    assert hashlib.sha256(body).hexdigest() == job["checksum"].removeprefix("sha256:")
    assert len(body.splitlines()) - 1 == job["rowCount"]
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
