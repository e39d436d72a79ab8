"""Pictures of the console with the demo's data, for README: `make screenshots`.

They go to docs/pictures, as WebP, which takes a third of a PNG. Look at each before you commit it.
"""

import base64
import sys
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from deploy.local.checkout import ROOT
from deploy.local.demo.__main__ import run_steps, set_dimensions
from deploy.local.demo.report import Report
from deploy.local.launcher import LocalFleet, run_fleet
from deploy.local.traffic import org
from tests.console.conftest import settle
from tests.support.console import browser_path

FOLDER = ROOT / "docs" / "pictures"


@dataclass(frozen=True)
class Picture:
    """A view, and how a person's browser is."""

    name: str
    view: str
    width: int = 1280
    height: int = 900
    browser: dict[str, Any] = field(default_factory=dict)


PICTURES = (
    Picture("usage", f"usage?org={org(0)}&range=7d&group=apiKey"),
    Picture("reliability", f"reliability?org={org(0)}&range=2h"),
    Picture("exports", f"exports?org={org(0)}", height=600),
    Picture("platform", "usage?org=all&range=7d&group=org", browser={"color_scheme": "dark"}),
    Picture("phone", f"usage?org={org(0)}&range=7d", width=390, height=844),
)


def main() -> int:
    """Run the demo, take the pictures, stop; 1 when the demo did not add up."""
    set_dimensions()
    return run_fleet("make screenshots", _take)


def _take(fleet: LocalFleet) -> int:
    report = Report()
    run_steps(fleet, report)
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        for picture in PICTURES:
            _take_one(browser, fleet.console_url, picture)
        browser.close()
    return report.verdict()


def _take_one(browser: Browser, console_url: str, picture: Picture) -> None:
    context = browser.new_context(
        locale="en-US",
        timezone_id="Europe/Berlin",
        viewport={"width": picture.width, "height": picture.height},
        **picture.browser,
    )
    page = context.new_page()
    page.goto(f"{console_url}#/{picture.view}")
    settle(page)
    height = page.evaluate("document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": picture.width, "height": height, "scale": 1}
    options = {"format": "webp", "quality": 80, "clip": clip, "captureBeyondViewport": True}
    taken = context.new_cdp_session(page).send("Page.captureScreenshot", options)
    path = FOLDER / f"{picture.name}.webp"
    path.write_bytes(base64.b64decode(taken["data"]))
    context.close()
    sys.stdout.write(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1000} kB\n")


if __name__ == "__main__":
    raise SystemExit(main())
