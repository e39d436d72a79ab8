"""How fast the console is, printed: `python -m tests.console.speed`.

The CPU that the page's main thread takes for the first view, and for a view of 24,192 points: to open it, to
sort its table, and to show another measure, which is asked of the API anew. CPU, because other work on the
machine lengthens it less than the time that passes; on an idle machine it is what a person waits for beside
the API.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from tests.console.conftest import choose, settle
from tests.support import shared_stack
from tests.support.console import A, Scene, browser_path, large, open_scene, week

TIMES = 5


def main() -> int:
    """Start a fleet with known data, measure, print."""
    servers = shared_stack.SharedStack()
    try:
        folder = servers.home / "console"
        folder.mkdir()
        with (
            open_scene(shared_stack.use(servers.home), Path(folder)) as scene,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
            for name, milliseconds in _measure(browser, scene).items():
                best, middle = min(milliseconds), statistics.median(milliseconds)
                sys.stdout.write(f"{name}: {best:.0f} ms at best, {middle:.0f} in the middle of {TIMES}\n")
            browser.close()
    finally:
        servers.close()
    return 0


def _measure(browser: Browser, scene: Scene) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}

    def note(name: str, milliseconds: float) -> None:
        found.setdefault(name, []).append(milliseconds)

    for _ in range(TIMES):
        with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
            page = context.new_page()
            cpu = _cpu(context.new_cdp_session(page))
            note("first view, with its answers", cpu(partial(page.goto, scene.page(week(A))), page))
        with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
            page = context.new_page()
            cpu = _cpu(context.new_cdp_session(page))
            note("24,192 points, opened", cpu(partial(page.goto, scene.page(large())), page))
            sort = page.get_by_role("button", name="Calls")
            note("24,192 points, sorted", cpu(sort.click, page))
            note("24,192 points, another measure", cpu(partial(choose, page, "Show", "tokens"), page))
    return found


def _cpu(session: CDPSession) -> Callable[[Callable[[], object], Page], float]:
    """Return what measures the CPU of the page's main thread during an action, in milliseconds."""
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))

    def measured(act: Callable[[], object], page: Page) -> float:
        before = seconds()
        act()
        settle(page)
        return 1000 * (seconds() - before)

    return measured


if __name__ == "__main__":
    raise SystemExit(main())
