"""The console's build, and the tests of the page's own logic; names and hosts stay out of its lock."""

import json
import re
from urllib.parse import urljoin

from gateway.console import build
from gateway.console.files import BUILT
from tests.support.gateway_app import Gateway

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


def test_what_was_built_is_served_small_kept_for_ever_and_under_a_strict_policy() -> None:
    build.build()
    gateway, address = Gateway.without_servers(), "/analytics/console/"
    page = gateway.call("GET", address, {})
    assert page.headers["cache-control"] == "no-cache"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "set-cookie" not in page.headers
    packed_bytes = 0
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert {name.rpartition(".")[2] for name in named} == {"svg", "js", "css"}
    for name in named:
        assert re.search(r"-[\w-]{8}\.\w+$", name), "its name changes with its content"
        asset = gateway.call("GET", urljoin(address, name), {}, headers={"Accept-Encoding": "gzip, br"})
        assert asset.status_code == 200
        assert asset.headers["content-encoding"] == "br"
        assert "immutable" in asset.headers["cache-control"]
        packed_bytes += len(asset.content)
    assert packed_bytes <= MAX_PACKED_BYTES


def test_the_page_s_own_logic() -> None:
    build.test()
