"""The console's build, and the tests of the page's own logic; names and hosts stay out of its lock."""

import json

from gateway.console import build
from gateway.console.files import BUILT

MAX_PACKED_BYTES = 250_000


def test_what_is_pinned_has_a_digest_and_no_address() -> None:
    lock = json.loads((build.UI / "package-lock.json").read_text(encoding="utf-8"))
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert packages
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert not any("resolved" in package for package in packages.values())
    declared = json.loads((build.UI / "package.json").read_text(encoding="utf-8"))
    versions = {**declared["dependencies"], **declared["devDependencies"]}
    assert all(packages[f"node_modules/{name}"]["version"] == version for name, version in versions.items())


def test_it_is_built_once_and_small() -> None:
    build.build()
    assert build.build() is False
    assert sum(path.stat().st_size for path in BUILT.rglob("*.gz")) <= MAX_PACKED_BYTES
    page = (BUILT / "index.html").read_text(encoding="utf-8")
    assert "://" not in page
    assert "<style" not in page


def test_the_page_s_own_logic() -> None:
    build.test()
