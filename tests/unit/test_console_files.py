"""The console's files: read once, chosen by coding, and nothing else can be asked for."""

from pathlib import Path

import pytest
from falcon import testing

from gateway.app import create_app
from gateway.console.files import File, read_files
from gateway.console.resources import ConsoleAsset, ConsolePage
from shared.settings import GatewaySettings, load

ENVIRON = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "S3_ENDPOINT": "127.0.0.1:1",
    "S3_ACCESS_KEY": "x",
    "S3_SECRET_KEY": "x",
}
PAGE = "/analytics/console/"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> testing.TestClient:
    """A gateway whose build has a page and a script."""
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "index-abc.js").write_text("plain")
    (tmp_path / "assets" / "index-abc.js.br").write_text("br")
    (tmp_path / "assets" / "index-abc.js.gz").write_text("gz")
    (tmp_path / "assets" / "notes.txt").write_text("not for anybody")
    (tmp_path / "secret").write_text("x")
    monkeypatch.setattr("gateway.app.read_files", lambda: read_files(tmp_path))
    return testing.TestClient(create_app(load(GatewaySettings, ENVIRON)))


def test_the_page_asks_each_time_and_may_load_nothing_from_elsewhere(client: testing.TestClient) -> None:
    answer = client.simulate_get(PAGE)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in answer.headers
    again = client.simulate_get(PAGE, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("accepted", "coding", "body"),
    [
        ("gzip, deflate, br, zstd", "br", b"br"),
        ("GZIP", "gzip", b"gz"),
        ("br;q=0, gzip;q=0.5", "gzip", b"gz"),
        ("br; q=0.000 , gzip ; q=0", None, b"plain"),
        ("identity", None, b"plain"),
        (None, None, b"plain"),
    ],
)
def test_a_file_comes_in_the_smallest_coding_that_is_taken(
    client: testing.TestClient, accepted: str | None, coding: str | None, body: bytes
) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = client.simulate_get(f"{PAGE}assets/index-abc.js", headers=headers)
    assert answer.content == body
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"


@pytest.mark.parametrize(
    "name",
    [
        "notes.txt",
        "index-abc.js.gz",
        "secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "../index.html",
        ".",
        "",
        "a%00b",
    ],
)
def test_nothing_else_is_there(client: testing.TestClient, name: str) -> None:
    assert client.simulate_get(f"{PAGE}assets/{name}").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_is_only_read(client: testing.TestClient, method: str) -> None:
    assert client.simulate_request(method, PAGE).status_code == 405


def test_a_head_has_no_body_and_the_same_headers(client: testing.TestClient) -> None:
    answer, full = client.simulate_head(PAGE), client.simulate_get(PAGE)
    assert answer.content == b""
    assert answer.headers["etag"] == full.headers["etag"]


def test_the_path_without_a_slash_leads_to_the_page(client: testing.TestClient) -> None:
    answer = client.simulate_get("/analytics/console")
    assert (answer.status_code, answer.headers["location"]) == (308, "console/")


def test_without_a_build_the_page_says_so(tmp_path: Path) -> None:
    page, assets = read_files(tmp_path)
    assert assets == {}
    assert b"The console is not built" in page.body
    assert b"make console" in page.body


def test_it_can_be_switched_off() -> None:
    client = testing.TestClient(create_app(load(GatewaySettings, ENVIRON | {"CONSOLE_ENABLED": "false"})))
    assert client.simulate_get(PAGE).status_code == 404
    assert client.simulate_get("/analytics/v1/status/healthz").status_code == 200


def test_codings_have_tags_of_their_own() -> None:
    file = File("text/css", b"a", {"br": b"b"})
    assert file.etag(None) != file.etag("br")
    assert ConsolePage.NEEDS == ConsoleAsset.NEEDS
