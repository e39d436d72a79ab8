"""What a test of the console has: the scene once a worker, and a page of its own that tolerates no fault.

A console error, a violation of the Content-Security-Policy, a request to elsewhere, or an answer of 400 and
more that the test has not announced, fails it.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Response,
    expect,
    sync_playwright,
)

from deploy.local.stack import LocalStack
from tests.support.console import Scene, browser_path, open_scene

_PATIENCE_MS = 30_000
"""The tests share two cores with others; nothing here is about time."""

expect.set_options(timeout=_PATIENCE_MS)


@pytest.fixture(scope="session")
def scene(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The fleet with known data."""
    with open_scene(stack, tmp_path_factory.mktemp("console")) as opened:
        yield opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium; as root it cannot make a sandbox of its own."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield opened
        opened.close()


@dataclass
class Watched:
    """What a page did that it should not."""

    url: str
    allowed: set[int] = field(default_factory=set)
    elsewhere: list[str] = field(default_factory=list)
    """Addresses of other servers that the test has announced."""
    faults: list[str] = field(default_factory=list)

    def watch(self, page: Page) -> None:
        """Follow a page."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("response", self._response)
        page.on("request", lambda request: self._request(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        # The browser's own line for an answer of 400 and more; those are judged below.
        if message.type in {"error", "warning"} and "Failed to load resource" not in message.text:
            self.faults.append(f"{message.type}: {message.text}")

    def _response(self, response: Response) -> None:
        if response.status >= 400 and response.status not in self.allowed:
            self.faults.append(f"{response.status} of {response.url}")

    def _request(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "blob:", *self.elsewhere)):
            self.faults.append(f"a request to {url}")


@pytest.fixture
def watched(scene: Scene) -> Watched:
    """What the test's pages do."""
    return Watched(scene.url)


@pytest.fixture
def context(browser: Browser, watched: Watched) -> Iterator[BrowserContext]:
    """A person's browser, new for each test, in Berlin."""
    opened = browser.new_context(
        locale="en-US", timezone_id="Europe/Berlin", viewport={"width": 1280, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    opened.set_default_timeout(_PATIENCE_MS)
    opened.on("page", watched.watch)
    yield opened
    opened.close()
    assert watched.faults == []


@pytest.fixture
def show(scene: Scene, context: BrowserContext) -> Callable[..., Page]:
    """Opens a view as an actor in a new page, and waits until its answer is there."""

    def opened(view: str, actor: str = "administrator", **options: Any) -> Page:
        page = context.new_page()
        for name, value in options.items():
            getattr(page, name)(**value)
        page.goto(scene.page(view, actor))
        settle(page)
        return page

    return opened


def settle(page: Page) -> None:
    """Wait until nothing is asked for any more."""
    page.wait_for_selector("#main")
    # A new address reaches the page by an event, and is drawn in the frame after.
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")
    expect(page.locator(".waiting, [aria-busy=true]")).to_have_count(0)


AXE = Path(__file__).resolve().parents[2] / ".console" / "ui" / "node_modules" / "axe-core" / "axe.min.js"


def axe(page: Page, *rules: str) -> list[str]:
    """Return what axe finds wrong with a page, none where all is well. rules: look for these alone."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    only = {"runOnly": list(rules)} if rules else {}
    found = page.evaluate("options => axe.run(document, options)", {"resultTypes": ["violations"], **only})
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]} {node.get('failureSummary', '')}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


def choose(page: Page, name: str, value: str) -> None:
    """Choose a value of one of the menus above the numbers."""
    label = page.locator("fieldset label").filter(has_text=re.compile(f"^{name} "))
    label.locator("select").select_option(value)
    settle(page)


def choose_zone(page: Page, name: str) -> None:
    """Choose a time zone; the menu is whole once it has the focus."""
    page.get_by_label("Zone").focus()
    page.get_by_label("Zone").select_option(name)


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


def milliseconds(value: int | None) -> str:
    """Write a time as the page does."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:,} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def percent(share: float) -> str:
    """Write a share as the page does."""
    digits = Decimal("0.01") if 0 < share < 0.1 else Decimal("0.1")
    return f"{(Decimal(str(share)) * 100).quantize(digits, ROUND_HALF_UP)}%"
