"""The console while a server behind it really fails, and once it is back."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from playwright.sync_api import Page, expect

from deploy.local.api import wait_until
from tests.console.conftest import Watched, axe, choose, settle
from tests.support.console import LARGE, LARGE_DAYS, STALE, TODAY, A, Scene, large, stale_events, week
from tests.support.seed import connect, insert_batch

Show = Callable[..., Page]


def test_numbers_that_lag_say_since_when_and_why(scene: Scene, show: Show) -> None:
    scene.worker.popen.send_signal(signal.SIGSTOP)
    owner = connect(scene.owner_url)
    try:
        for minutes, name in ((7, "Behind"), (11, "Far behind")):
            insert_batch(owner, stale_events(), datetime.now(UTC) - timedelta(minutes=minutes))
            page = show(f"usage?org={STALE}&range=7d&zone=UTC")
            line = page.locator(".freshness")
            expect(line.locator("strong")).to_have_text(name)
            expect(line).to_contain_text(f"last {minutes} min are not in these numbers yet")
            expect(line).to_contain_text("no rollup worker has added them")
            assert axe(page) == []
            with owner.cursor() as cur:
                cur.execute("DELETE FROM analytics.usage_events WHERE org_id = %s", (STALE,))
    finally:
        scene.worker.popen.send_signal(signal.SIGCONT)
        owner.close()


def test_a_database_that_is_gone_is_said_in_the_answer_s_own_words_and_tried_again(
    scene: Scene, show: Show, watched: Watched
) -> None:
    watched.allowed.add(503)
    page = show(week(A))
    scene.to_database.mode = "refuse"
    scene.to_database.reset_connections()
    try:
        page.get_by_role("button", name="Refresh").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("postgresql did not answer in time; nothing is lost, try again.")
        expect(alert).to_contain_text(re.compile(r"Request \S+: the log knows it"))
        assert page.locator(".card").count() == 0
        assert axe(page) == []
    finally:
        scene.to_database.mode = "pass"
    page.get_by_role("button", name="Try again").click()
    settle(page)
    assert page.locator(".card").count() == 5
    assert page.get_by_role("alert").count() == 0


@contextmanager
def unread_answer(scene: Scene) -> Iterator[None]:
    """Ask for a large answer as the administrator does, and do not read it."""
    start = TODAY - timedelta(days=200)
    window = f"start={start:%Y-%m-%d}T00:00:00Z&end={start + timedelta(days=LARGE_DAYS):%Y-%m-%d}T00:00:00Z"
    with closing(socket.socket()) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(30)
        client.connect(("127.0.0.1", urlsplit(scene.gateway.url).port))
        client.sendall(
            f"GET /analytics/v1/orgs/{LARGE}/usage?{window}&granularity=hour HTTP/1.1\r\nHost: x\r\n"
            "X-Actor-Subject: administrator\r\nX-Actor-Roles: admin\r\n\r\n".encode()
        )
        assert client.recv(64).startswith(b"HTTP/1.1 200")
        yield


def test_too_much_at_once_is_said_and_answered_once_the_rest_has_ended(
    scene: Scene, show: Show, watched: Watched
) -> None:
    watched.allowed.add(429)
    with unread_answer(scene):
        page = show(large())
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("1 large answers under way, the most for one subject")
        expect(alert.get_by_role("button", name="Try again")).to_contain_text("it asks for 5 s")
        assert axe(page) == []

    def answered() -> bool:
        page.get_by_role("button", name="Try again").click()
        settle(page)
        return page.locator(".card").count() == 5

    # The gateway learns that the other has gone when it sends it more.
    wait_until(answered, seconds=30, what="the page's answer")
    # Thousands of points stay a page that answers.
    page.get_by_role("button", name="Calls").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Calls ▼")
    choose(page, "Show", "calls")
    expect(page.locator("figcaption")).to_have_text("Calls by hour and model")


def test_no_answer_at_all_is_said_too(show: Show) -> None:
    page = show(week(A))
    page.context.set_offline(True)
    page.get_by_role("button", name="Refresh").click()
    expect(page.get_by_role("alert")).to_contain_text("The gateway did not answer")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    settle(page)
    assert page.locator(".card").count() == 5


def test_a_long_wait_shows_progress(scene: Scene, show: Show) -> None:
    page = show(week(A))
    os.killpg(scene.gateway.popen.pid, signal.SIGSTOP)
    try:
        page.get_by_role("button", name="Refresh").click()
        expect(page.locator(".waiting")).to_contain_text("Still asking, 2 s")
        assert page.locator(".waiting progress").count() == 1
        assert page.locator(".card").count() == 5, "what was there stays in sight"
        assert axe(page) == []
    finally:
        os.killpg(scene.gateway.popen.pid, signal.SIGCONT)
    settle(page)
    assert page.locator(".card").count() == 5
