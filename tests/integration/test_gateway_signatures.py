"""The proxy's proof at the gateway: what is signed is answered, all else is a 401 that says what is wrong."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from falcon import testing
from psycopg2.extensions import connection

from deploy.local.traffic import org
from gateway.access.signature import signed_text
from tests.support.gateway_app import ADMIN, OWNER, PREFIX, Gateway, assert_problem, read

NOW = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
AT = int(NOW.timestamp())
OLD, NEW = "old-secret-0123456789-0123456789-abc", "new-secret-0123456789-0123456789-abc"
KEYS = f"old:{OLD},new:{NEW}"
USAGE = f"{PREFIX}/orgs/{org(0)}/usage"
THEIRS = f"{PREFIX}/orgs/{org(1)}/usage"
WINDOW = "start=2026-11-01T00:00:00Z&end=2026-11-02T00:00:00%2B00:00"
EXPORTS = f"{PREFIX}/orgs/{org(0)}/exports"
VALIDATE = f"{PREFIX}/events/validate"
MAKER = {**OWNER, "X-Actor-Roles": "analytics:exports:create,analytics:exports:read"}
EXPORT = json.dumps({"timeRange": {"start": "2026-11-01T00:00:00Z", "end": "2026-11-02T00:00:00Z"}}).encode()


@pytest.fixture
def signed(environ: dict[str, str]) -> Gateway:
    """A gateway that demands signatures."""
    return Gateway(environ, clock=lambda: NOW, ACTOR_SIGNATURE_KEYS=KEYS)


@pytest.fixture(scope="module")
def refusing() -> Gateway:
    """A gateway that demands signatures, for requests that it refuses: those need no server."""
    return Gateway.without_servers(clock=lambda: NOW, ACTOR_SIGNATURE_KEYS=KEYS)


def proof(
    method: str,
    path: str,
    actor: Mapping[str, str],
    *,
    query: str = "",
    body: bytes = b"",
    key: str = "new",
    secret: str = NEW,
    at: int = AT,
) -> dict[str, str]:
    """Sign a request and return the actor's headers with the signature's."""
    text = signed_text(
        time=str(at),
        method=method,
        target=f"{path}?{query}" if query else path,
        actor=[actor.get(f"X-Actor-{name}") for name in ("Subject", "Roles", "Orgs")],
        body=body,
    )
    digest = hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()
    return {**actor, "X-Actor-Time": str(at), "X-Actor-Signature": f"{key}:{digest}"}


def refused(answer: testing.Result, reason: str) -> None:
    """Check a refusal, and that it tells neither secret nor signature."""
    assert_problem(answer, 401)
    assert read(answer)["type"] == f"urn:problem:analytics:signature-{reason}"
    assert answer.headers["www-authenticate"] == "Actor-Signature"
    assert OLD not in answer.text
    assert NEW not in answer.text


def test_a_signed_read_is_answered_and_a_signature_may_be_used_again(signed: Gateway) -> None:
    headers = proof("GET", USAGE, OWNER, query=WINDOW)
    for _ in range(2):
        assert signed.call("GET", USAGE, headers, query=WINDOW).status_code == 200
    head = proof("HEAD", USAGE, OWNER, query=WINDOW)
    assert signed.call("HEAD", USAGE, head, query=WINDOW).status_code == 200


def test_both_keys_are_live_and_no_other(signed: Gateway) -> None:
    for key, secret, status in (("old", OLD, 200), ("new", NEW, 200), ("old", NEW, 401), ("gone", OLD, 401)):
        headers = proof("GET", USAGE, OWNER, query=WINDOW, key=key, secret=secret)
        assert signed.call("GET", USAGE, headers, query=WINDOW).status_code == status, key
    headers = proof("GET", USAGE, OWNER, query=WINDOW, key="gone", secret=OLD)
    refused(signed.call("GET", USAGE, headers, query=WINDOW), "unknown-key")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"X-Actor-Time": None}, "missing"),
        ({"X-Actor-Signature": None}, "missing"),
        ({"X-Actor-Signature": ""}, "missing"),
        ({"X-Actor-Signature": "new"}, "malformed"),
        ({"X-Actor-Signature": f"new:{'A' * 64}"}, "malformed"),
        ({"X-Actor-Signature": f"new:{'a' * 63}"}, "malformed"),
        ({"X-Actor-Signature": f"new:{'a' * 64},old:{'a' * 64}"}, "malformed"),
        ({"X-Actor-Signature": f"new:{'a' * 64}"}, "mismatch"),
        ({"X-Actor-Time": f"{AT}.0"}, "malformed"),
        ({"X-Actor-Time": f"0{AT}"}, "malformed"),
        ({"X-Actor-Time": "1e9"}, "malformed"),
        ({"X-Actor-Time": f"-{AT}"}, "malformed"),
        ({"X-Actor-Time": "9" * 13}, "malformed"),
        ({"X-Actor-Time": "9" * 12}, "wrong-time"),
        ({"X-Actor-Time": f"{AT + 1}"}, "mismatch"),
        ({"X-Actor-Subject": "other"}, "mismatch"),
        ({"X-Actor-Subject": None}, "mismatch"),
        ({"X-Actor-Roles": "admin"}, "mismatch"),
        ({"X-Actor-Orgs": org(1)}, "mismatch"),
        ({"X-Actor-Orgs": ""}, "mismatch"),
        ({"X-Actor-Orgs": None}, "mismatch"),
    ],
)
def test_a_header_that_lacks_or_differs_is_a_401_that_says_what_is_wrong(
    refusing: Gateway, changes: dict[str, str | None], reason: str
) -> None:
    changed = {**proof("GET", USAGE, OWNER, query=WINDOW), **changes}
    headers = {name: value for name, value in changed.items() if value is not None}
    refused(refusing.call("GET", USAGE, headers, query=WINDOW), reason)


def test_a_signature_is_of_one_method_and_one_target(signed: Gateway) -> None:
    headers = proof("GET", USAGE, ADMIN, query=WINDOW)
    others = [
        ("HEAD", USAGE, WINDOW),
        ("GET", THEIRS, WINDOW),
        (
            "GET",
            USAGE.upper().replace("/ANALYTICS/V1/ORGS", f"{PREFIX}/orgs").replace("USAGE", "usage"),
            WINDOW,
        ),
        ("GET", USAGE, WINDOW.replace("%2B", "%2b")),
        ("GET", USAGE, f"{WINDOW}&"),
        ("GET", USAGE, f"{WINDOW}&granularity=hour"),
        ("GET", USAGE, "&".join(reversed(WINDOW.split("&")))),
        ("GET", USAGE, ""),
    ]
    for method, path, query in others:
        answer = signed.call(method, path, headers, query=query)
        assert answer.status_code == 401, (method, path, query)


@pytest.mark.parametrize("off", [-60, -59, 0, 59, 60])
def test_a_minute_of_difference_is_allowed_both_ways(environ: dict[str, str], off: int) -> None:
    gateway = Gateway(environ, clock=lambda: NOW, ACTOR_SIGNATURE_KEYS=KEYS)
    headers = proof("GET", USAGE, OWNER, query=WINDOW, at=AT + off)
    assert gateway.call("GET", USAGE, headers, query=WINDOW).status_code == 200


@pytest.mark.parametrize(("off", "side"), [(-61, "61 s behind"), (61, "61 s ahead of"), (-86_400, "86400 s")])
def test_more_than_a_minute_is_refused_and_the_difference_told(
    refusing: Gateway, off: int, side: str
) -> None:
    headers = proof("GET", USAGE, OWNER, query=WINDOW, at=AT + off)
    answer = refusing.call("GET", USAGE, headers, query=WINDOW)
    refused(answer, "wrong-time")
    assert side in read(answer)["detail"]


def test_a_part_of_a_second_beyond_the_minute_is_beyond_it(environ: dict[str, str]) -> None:
    gateway = Gateway(environ, clock=lambda: NOW + timedelta(microseconds=1), ACTOR_SIGNATURE_KEYS=KEYS)
    headers = proof("GET", USAGE, OWNER, query=WINDOW, at=AT - 60)
    answer = gateway.call("GET", USAGE, headers, query=WINDOW)
    refused(answer, "wrong-time")
    assert "61 s behind" in read(answer)["detail"]


def test_a_body_is_read_as_it_was_signed_and_no_other_does_anything(
    signed: Gateway, owner: connection
) -> None:
    headers = proof("POST", EXPORTS, MAKER, body=EXPORT)
    for other in (EXPORT + b" ", EXPORT.replace(b"02T", b"03T"), b"", EXPORT[:-1]):
        refused(signed.call("POST", EXPORTS, headers, body=other), "mismatch")
    with owner.cursor() as cur:
        cur.execute("SELECT count(*) FROM analytics.export_jobs")
        assert cur.fetchone() == (0,)
    answer = signed.call("POST", EXPORTS, headers, body=EXPORT)
    assert answer.status_code == 202, answer.text
    assert read(answer)["requestedBy"] == OWNER["X-Actor-Subject"]
    broken = proof("POST", VALIDATE, OWNER, body=b"[{}]")
    assert_problem(signed.call("POST", VALIDATE, broken, body=b"[{}]"), 400)


def test_the_body_of_a_read_is_signed_too(signed: Gateway) -> None:
    with_body = proof("GET", USAGE, OWNER, query=WINDOW, body=b"{}")
    assert signed.call("GET", USAGE, with_body, query=WINDOW, body=b"{}").status_code == 200
    refused(signed.call("GET", USAGE, with_body, query=WINDOW), "mismatch")
    without = proof("GET", USAGE, OWNER, query=WINDOW)
    refused(signed.call("GET", USAGE, without, query=WINDOW, body=b"{}"), "mismatch")


def test_an_encoded_body_is_signed_as_it_is_sent(signed: Gateway) -> None:
    headers = proof("POST", VALIDATE, OWNER, body=b"\x1f\x8b")
    answer = signed.call("POST", VALIDATE, headers, body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert_problem(answer, 400)


def test_the_largest_body_is_checked_and_one_byte_more_is_refused(signed: Gateway) -> None:
    largest = b"[" + b" " * (1024 * 1024 - 2) + b"]"
    headers = proof("POST", VALIDATE, OWNER, body=largest)
    assert_problem(signed.call("POST", VALIDATE, headers, body=largest), 400)
    headers = proof("POST", VALIDATE, OWNER, body=largest + b" ")
    refused(signed.call("POST", VALIDATE, headers, body=largest + b" "), "body-too-large")


def test_the_signature_comes_before_the_actor_and_replaces_none_of_its_rules(signed: Gateway) -> None:
    nobody: dict[str, str] = {}
    refused(signed.call("GET", USAGE, nobody, query=WINDOW), "missing")
    anonymous = signed.call("GET", USAGE, proof("GET", USAGE, nobody, query=WINDOW), query=WINDOW)
    assert_problem(anonymous, 401)
    assert read(anonymous)["type"] == "urn:problem:analytics:unauthenticated"
    answer = signed.call("GET", THEIRS, proof("GET", THEIRS, OWNER, query=WINDOW), query=WINDOW)
    assert_problem(answer, 403)
    odd = {**OWNER, "X-Actor-Subject": "a,b"}
    answer = signed.call("GET", USAGE, proof("GET", USAGE, odd, query=WINDOW), query=WINDOW)
    assert_problem(answer, 400, "X-Actor-Subject")


def test_a_refusal_leaves_no_audit_row_and_a_signed_cross_org_read_leaves_one(
    signed: Gateway, owner: connection
) -> None:
    headers = proof("GET", THEIRS, ADMIN, query=WINDOW)
    refused(signed.call("GET", THEIRS, {**headers, "X-Actor-Orgs": org(1)}, query=WINDOW), "mismatch")
    assert signed.call("GET", THEIRS, headers, query=WINDOW).status_code == 200
    with owner.cursor() as cur:
        cur.execute("SELECT decision, org_id::text FROM analytics.audit_log")
        assert cur.fetchall() == [("cross-org", org(1))]


def test_probes_metrics_and_the_document_need_no_signature(signed: Gateway) -> None:
    for path in ("/status/healthz", "/status/readyz", "/openapi.json"):
        assert signed.call("GET", PREFIX + path, {}).status_code == 200
    assert signed.call("OPTIONS", USAGE, {}).status_code == 200
    assert signed.call("DELETE", USAGE, {}).status_code == 405


def test_roles_that_are_not_checked_are_signed_all_the_same(environ: dict[str, str]) -> None:
    gateway = Gateway(environ, clock=lambda: NOW, ACTOR_SIGNATURE_KEYS=KEYS, ENABLE_RBAC="false")
    refused(gateway.call("GET", USAGE, {}, query=WINDOW), "missing")
    assert gateway.call("GET", USAGE, proof("GET", USAGE, {}, query=WINDOW), query=WINDOW).status_code == 200


def test_without_keys_the_headers_of_a_signature_mean_nothing(environ: dict[str, str]) -> None:
    gateway = Gateway(environ)
    odd = {**OWNER, "X-Actor-Time": "x", "X-Actor-Signature": "y"}
    repeated = {"X-Analytics-Repeated": "X-ACTOR-TIME,X-ACTOR-SIGNATURE"}
    assert gateway.call("GET", USAGE, odd, query=WINDOW, headers=repeated).status_code == 200
    for name in ("X-Actor-Time", "X-Actor-Signature"):
        signing = Gateway(environ, clock=lambda: NOW, ACTOR_SIGNATURE_KEYS=KEYS)
        headers = {**proof("GET", USAGE, OWNER, query=WINDOW), "X-Analytics-Repeated": name.upper()}
        assert_problem(signing.call("GET", USAGE, headers, query=WINDOW), 400, name)
